import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

/** What is used here of Grafana's dashboard model. */
export interface Dashboard {
  readonly uid: string;
  readonly title: string;
  readonly templating: { readonly list: readonly { readonly name: string }[] };
  readonly panels: readonly Panel[];
}

/** One panel: a row's title, a number, or lines over time. */
export interface Panel {
  readonly id: number;
  readonly type: 'row' | 'stat' | 'timeseries';
  readonly title: string;
  readonly description?: string;
  readonly gridPos: { readonly x: number; readonly y: number; readonly w: number; readonly h: number };
  readonly targets?: readonly { readonly expr: string; readonly legendFormat: string }[];
  readonly fieldConfig?: {
    readonly defaults: { readonly unit: string; readonly custom?: { readonly stacking: { readonly mode: string } } };
  };
}

/** deploy/grafana/berth-dashboard.json. */
export function readDashboard(): Dashboard {
  const file = fileURLToPath(new URL('../../deploy/grafana/berth-dashboard.json', import.meta.url));
  return JSON.parse(readFileSync(file, 'utf8')) as Dashboard;
}
