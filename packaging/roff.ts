/** Text as roff(7) takes it: nothing in it is a request or an escape. */
export function escapeRoff(text: string): string {
  return text
    .replaceAll('\\', '\\e')
    .replaceAll('-', '\\-')
    .split('\n')
    .map((line) => (/^[.']/.test(line) ? `\\&${line}` : line))
    .join('\n');
}

/** A manual page in the making (man(7)). */
export class ManPage {
  readonly #lines: string[];

  constructor(name: string, section: number, source: string, epochSeconds: number) {
    const date = new Date(epochSeconds * 1000).toISOString().slice(0, 10);
    this.#lines = [`.TH ${escapeRoff(name.toUpperCase())} ${section} ${date} "${source}" "Berth"`];
  }

  section(title: string): this {
    this.#lines.push(`.SH ${title}`);
    return this;
  }

  /** A heading within a section. */
  heading(title: string): this {
    this.#lines.push(`.SS ${escapeRoff(title)}`);
    return this;
  }

  /** Paragraphs; an empty line parts them. */
  text(text: string): this {
    for (const paragraph of text.trim().split(/\n\s*\n/)) {
      // A heading begins a paragraph by itself, and readers of the NAME section know nothing else.
      if (!/^\.S[HS]/.test(this.#lines.at(-1) ?? '')) this.#lines.push('.PP');
      this.#lines.push(escapeRoff(paragraph));
    }
    return this;
  }

  /** A term in bold, and what it stands for. */
  term(term: string, meaning: string): this {
    this.#lines.push('.TP', `.B ${escapeRoff(term)}`, escapeRoff(meaning === '' ? '\u00a0' : meaning));
    return this;
  }

  toString(): string {
    return `${this.#lines.join('\n')}\n`;
  }
}
