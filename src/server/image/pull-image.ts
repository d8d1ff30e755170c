import type { AuthConfig, PullImageRequest, PullImageResponse } from '../../../proto/gen/cri/api.ts';
import type { RegistryAuth } from '../../image/auth.ts';
import type { Images } from '../../image/images.ts';
import { imageFromProto } from '../convert/container-config.ts';
import type { Handler } from '../unary.ts';

/** PullImage: the answer is the image's id, the same that statuses and containers show. */
export function pullImage(images: Images): Handler<PullImageRequest, PullImageResponse> {
  return async ({ image, auth, sandboxConfig }, { signal }) => {
    const { reference } = imageFromProto(image, 'image');
    const namespace = sandboxConfig?.metadata?.namespace ?? '';
    const record = await images.pull(reference, auth ? authFromProto(auth) : undefined, signal, namespace);
    return { imageRef: record.id };
  };
}

function authFromProto(auth: AuthConfig): RegistryAuth {
  return {
    username: auth.username,
    password: auth.password,
    auth: auth.auth,
    serverAddress: auth.serverAddress,
    identityToken: auth.identityToken,
    registryToken: auth.registryToken,
  };
}
