/** A counter only grows as long as its container lives. */
export type MetricType = 'counter' | 'gauge';

/** What a metric is, in cAdvisor's words, so that dashboards find what they know. */
export interface MetricDescriptor {
  readonly name: string;
  readonly help: string;
  /** Every metric has these labels, then its own. */
  readonly labelKeys: readonly string[];
}

/** One value of a metric; its labels stand in the order of the descriptor's keys. */
export interface Metric {
  readonly name: string;
  readonly type: MetricType;
  readonly labelValues: string[];
  /** Not negative. */
  readonly value: number;
}

/** A metric and how its values come from what is known of its subject. */
export interface MetricDefinition<Subject> {
  readonly descriptor: MetricDescriptor;
  readonly type: MetricType;
  /** Each with the metric's own labels; no two have the same. */
  readonly values: (subject: Subject) => readonly LabelledValue[];
}

/** A value with labels of its own. */
export interface LabelledValue {
  readonly labels: readonly string[];
  readonly value: number;
}

/** As cAdvisor tells containers apart in the kubelet. A pod's own metrics have `POD` for a container. */
export const BASE_LABEL_KEYS: readonly string[] = ['id', 'name', 'image', 'namespace', 'pod', 'container'];

/** A metric with one value, or none where it is not known. */
export function single<Subject>(
  type: MetricType,
  name: string,
  help: string,
  value: (subject: Subject) => number | undefined,
): MetricDefinition<Subject> {
  return {
    descriptor: { name, help, labelKeys: BASE_LABEL_KEYS },
    type,
    values(subject) {
      const known = value(subject);
      return known === undefined ? [] : [{ labels: [], value: known }];
    },
  };
}

/** A metric with several values, told apart by labels of its own. */
export function labelled<Subject>(
  type: MetricType,
  name: string,
  help: string,
  labelKeys: readonly string[],
  values: (subject: Subject) => readonly LabelledValue[],
): MetricDefinition<Subject> {
  return { descriptor: { name, help, labelKeys: [...BASE_LABEL_KEYS, ...labelKeys] }, type, values };
}

/** The values of all metrics of a subject. */
export function metricsOf<Subject>(
  definitions: readonly MetricDefinition<Subject>[],
  baseLabels: string[],
  subject: Subject,
): Metric[] {
  return definitions.flatMap(({ descriptor: { name }, type, values }) =>
    values(subject).map(({ labels, value }) => ({
      name,
      type,
      labelValues: labels.length === 0 ? baseLabels : [...baseLabels, ...labels],
      value: Math.max(0, Math.floor(value)),
    })),
  );
}
