const suffixes = new Map<string, readonly [base: bigint, exponent: number]>([
  ['n', [10n, -9]],
  ['u', [10n, -6]],
  ['m', [10n, -3]],
  ['', [10n, 0]],
  ['k', [10n, 3]],
  ['M', [10n, 6]],
  ['G', [10n, 9]],
  ['T', [10n, 12]],
  ['P', [10n, 15]],
  ['E', [10n, 18]],
  ['Ki', [2n, 10]],
  ['Mi', [2n, 20]],
  ['Gi', [2n, 30]],
  ['Ti', [2n, 40]],
  ['Pi', [2n, 50]],
  ['Ei', [2n, 60]],
]);
const LENGTH_LIMIT_CHARS = 64;
// 2 ** 60 is the largest suffix.
const EXPONENT_LIMIT = 60;

/**
 * The value of a Kubernetes quantity ("10M", "1.5Gi", "2e6", "500m"), rounded up to a whole number, exactly.
 * Undefined when the text is none. Grammar: k8s.io/apimachinery, api/resource.
 */
export function parseQuantity(text: string): bigint | undefined {
  if (text.length > LENGTH_LIMIT_CHARS) return undefined;
  const match = /^([+-]?)(\d*)(?:\.(\d*))?(?:([a-zA-Z]*)|[eE]([+-]?\d{1,3}))$/.exec(text);
  if (!match) return undefined;
  const [, sign = '', whole = '', fraction = '', suffix = '', scientific] = match;
  if (whole === '' && fraction === '') return undefined;
  const scale = scientific === undefined ? suffixes.get(suffix) : ([10n, Number(scientific)] as const);
  if (!scale || Math.abs(scale[1]) > EXPONENT_LIMIT) return undefined;
  const [base, exponent] = scale;
  const up = BigInt(Math.max(exponent, 0));
  const down = BigInt(Math.max(-exponent, 0));
  const numerator = BigInt(`${sign === '-' ? '-' : ''}${whole}${fraction}`) * base ** up;
  const denominator = 10n ** BigInt(fraction.length) * base ** down;
  return ceilDivide(numerator, denominator);
}

function ceilDivide(numerator: bigint, denominator: bigint): bigint {
  const quotient = numerator / denominator;
  return numerator % denominator > 0n ? quotient + 1n : quotient;
}
