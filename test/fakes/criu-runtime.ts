import { chmodSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

/**
 * An OCI runtime that can checkpoint where CRIU cannot run: runc, but that a dump is one file with the container's id in
 * it, and a restored container runs the command `go-on` of its image. Its calls are in `<folder>/calls`; a file
 * `<folder>/fail-<verb>` makes that verb fail with its text, `<folder>/hang-<verb>` makes it hang, with its pid in
 * `<folder>/hanging`.
 */
export function buildCriuRuntime(folder: string): { readonly path: string; readonly binDir: string } {
  mkdirSync(folder, { recursive: true });
  const path = join(folder, 'criu-runc');
  const script = `#!/bin/bash
# What runc would do, with CRIU's part made up.
folder=${folder}
args=("$@"); verb=; for arg in "$@"; do case $arg in -*) ;; *) verb=$arg; break ;; esac; done
case $verb in pause|resume|checkpoint|restore) echo "$verb \${@: -1}" >> $folder/calls ;; esac
[ -e "$folder/fail-$verb" ] && { cat "$folder/fail-$verb" >&2; exit 1; }
[ -e "$folder/hang-$verb" ] && { echo $$ > "$folder/hanging"; exec sleep 1000; }
case $verb in
  features)
    echo '{"mountOptions":[],"linux":{"namespaces":["mount"]},"annotations":{"org.opencontainers.runc.checkpoint.enabled":"true"}}' ;;
  checkpoint)
    images=; previous=; for arg in "$@"; do [ "$previous" = --image-path ] && images=$arg; previous=$arg; done
    echo "memory of \${@: -1}" > "$images/pages-1.img" ;;
  restore)
    new=(); previous=; bundle=
    for arg in "$@"; do
      case $previous in
        --image-path) [ -s "$arg/pages-1.img" ] || { echo no images >&2; exit 1; } ;;
        --work-path) ;;
        --bundle) bundle=$arg; new+=(--bundle "$arg") ;;
        *) case $arg in restore) new+=(run) ;; --image-path|--work-path|--bundle) ;; *) new+=("$arg") ;; esac ;;
      esac
      previous=$arg
    done
    sed -i 's#"args":\\[[^]]*\\]#"args":["/bin/sh","-c","echo restored; exec sleep 1000"]#' "$bundle/config.json"
    exec runc "\${new[@]}" ;;
  *) exec runc "$@" ;;
esac
`;
  writeFileSync(path, script);
  chmodSync(path, 0o755);
  const binDir = join(folder, 'bin');
  mkdirSync(binDir);
  writeFileSync(join(binDir, 'criu'), '#!/bin/sh\nexit 0\n');
  chmodSync(join(binDir, 'criu'), 0o755);
  return { path, binDir };
}
