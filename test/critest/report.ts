/** Reads what the suite reports about a run. */

import { readFileSync } from 'node:fs';

/** A spec that failed. */
export interface FailedSpec {
  readonly name: string;
  readonly message: string;
  /** Line of the suite's source. */
  readonly place: string;
}

/** The outcome of one run. */
export interface Outcome {
  readonly seed: number;
  readonly seconds: number;
  readonly passed: number;
  readonly failed: readonly FailedSpec[];
  /** Specs that found themselves out of place on this machine or with this runtime, with their reason. */
  readonly skipped: readonly { readonly name: string; readonly reason: string }[];
  readonly slowest: readonly { readonly name: string; readonly seconds: number }[];
}

/** What is used of Ginkgo's JSON report. */
interface SpecReport {
  readonly ContainerHierarchyTexts: readonly string[] | null;
  readonly LeafNodeType: string;
  readonly LeafNodeText: string;
  readonly State: string;
  readonly RunTime: number;
  readonly Failure?: {
    readonly Message: string;
    readonly Location: { readonly FileName: string; readonly LineNumber: number };
  };
}

interface SuiteReport {
  readonly RunTime: number;
  readonly SuiteConfig: { readonly RandomSeed: number };
  readonly SpecialSuiteFailureReasons: readonly string[] | null;
  readonly SpecReports: readonly SpecReport[];
}

/** Reads Ginkgo's JSON report. Throws when there is none, or none of a suite. */
export function readOutcome(file: string): Outcome {
  const [report] = JSON.parse(readFileSync(file, 'utf8')) as SuiteReport[];
  if (!report) throw new Error(`${file}: no suite in it`);
  const specs = report.SpecReports.filter((spec) => spec.LeafNodeType === 'It');
  // A hook of the whole suite that fails has no spec.
  const bad = report.SpecReports.filter((spec) => !['passed', 'skipped', 'pending'].includes(spec.State));
  const failed = bad.map(failedSpec);
  const reasons = failed.length > 0 ? [] : (report.SpecialSuiteFailureReasons ?? []);
  return {
    seed: report.SuiteConfig.RandomSeed,
    seconds: report.RunTime / 1e9,
    passed: specs.filter((spec) => spec.State === 'passed').length,
    failed: [...failed, ...reasons.map((message) => ({ name: 'the suite', message, place: '' }))],
    // What filters leave out has no reason.
    skipped: specs
      .filter((spec) => spec.State === 'skipped' && spec.Failure?.Message)
      .map((spec) => ({ name: nameOf(spec), reason: spec.Failure?.Message ?? '' })),
    slowest: specs
      .map((spec) => ({ name: nameOf(spec), seconds: spec.RunTime / 1e9 }))
      .sort((one, other) => other.seconds - one.seconds)
      .slice(0, 5),
  };
}

function failedSpec(spec: SpecReport): FailedSpec {
  const { FileName = '', LineNumber = 0 } = spec.Failure?.Location ?? {};
  return {
    name: nameOf(spec),
    message: spec.Failure ? withoutDump(spec.Failure.Message) : spec.State,
    place: `${FileName.replace(/^.*\/(pkg\/)/, '$1')}:${LineNumber}`,
  };
}

function nameOf(spec: SpecReport): string {
  const words = [...(spec.ContainerHierarchyTexts ?? []), spec.LeafNodeText].filter((text) => text !== '');
  return words.join(' ') || spec.LeafNodeType;
}

/** Gomega shows an error's text, and then all fields of its type. */
function withoutDump(message: string): string {
  return message.trim().replaceAll(/\n *\{\n[\s\S]*?\n {0,6}\}(?=\n|$)/g, '');
}
