import { CHECKPOINT, checkpointSteps } from './checkpoint.ts';
import { CREATE_CONTAINER, createContainerSteps } from './create-container.ts';
import { REMOVE_CONTAINER, removeContainerSteps } from './remove-container.ts';
import { REMOVE_SANDBOX, removeSandboxSteps } from './remove-sandbox.ts';
import { RUN_SANDBOX, runSandboxSteps } from './run-sandbox.ts';
import { START_CONTAINER, startContainerSteps } from './start-container.ts';
import { STOP_SANDBOX, stopSandboxSteps } from './stop-sandbox.ts';

/** What there is to know of a pipeline without running it. */
export interface PipelineOutline {
  /** The name under which it is journalled. */
  readonly name: string;
  /** In order. */
  readonly steps: readonly { readonly name: string; readonly hasUndo: boolean }[];
}

/** All pipelines of this room. Tests take the places from here that they disturb, and so a new step is among them. */
export function listPipelines(): readonly PipelineOutline[] {
  return [
    outline(RUN_SANDBOX, runSandboxSteps),
    outline(STOP_SANDBOX, stopSandboxSteps),
    outline(REMOVE_SANDBOX, removeSandboxSteps),
    outline(CREATE_CONTAINER, createContainerSteps),
    outline(START_CONTAINER, startContainerSteps),
    outline(REMOVE_CONTAINER, removeContainerSteps),
    outline(CHECKPOINT, checkpointSteps),
  ];
}

function outline(name: string, steps: readonly { readonly name: string; readonly undo?: unknown }[]): PipelineOutline {
  return { name, steps: steps.map((step) => ({ name: step.name, hasUndo: step.undo !== undefined })) };
}
