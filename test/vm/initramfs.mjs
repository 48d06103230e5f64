/** The first files of the virtual machine: a shell and what mounts the file system of the host. */
import {
  chmodSync,
  copyFileSync,
  mkdirSync,
  readdirSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { run } from './packages.mjs';

/** Those without which the host's modules cannot be reached; the kernel loads others by itself. */
const MODULES = ['virtio_pci', 'virtio_console', '9pnet_virtio', '9p', 'overlay'];
const INIT = fileURLToPath(new URL('init.sh', import.meta.url));

/** Builds it from the kernel unpacked in `kernel`. */
export function buildInitramfs(kernel, file) {
  const [release = ''] = readdirSync(join(kernel, 'lib/modules'));
  const root = `${file}.root`;
  rmSync(root, { recursive: true, force: true });
  for (const name of ['bin', 'modules', 'dev', 'proc', 'sys', 'host', 'top', 'root']) {
    mkdirSync(join(root, name), { recursive: true });
  }
  copyFileSync('/bin/busybox', join(root, 'bin/busybox'));
  copyFileSync(INIT, join(root, 'init'));
  chmodSync(join(root, 'init'), 0o755);
  const modules = neededModules(kernel, release);
  for (const path of modules) copyFileSync(path, join(root, 'modules', basename(path)));
  writeFileSync(
    join(root, 'modules/order'),
    `${modules.map((path) => basename(path)).join('\n')}\n`,
  );
  run('sh', ['-c', 'find . | busybox cpio -o -H newc >"$1"', 'sh', `${file}.part`], { cwd: root });
  renameSync(`${file}.part`, file);
  rmSync(root, { recursive: true });
}

/** Files of modules, each after those it depends on. */
function neededModules(kernel, release) {
  const args = ['-d', kernel, '-S', release, '--show-depends', '-a', ...MODULES];
  const lines = run('modprobe', args).split('\n');
  return [...new Set(lines.flatMap((line) => /^insmod (\S+)/.exec(line)?.[1] ?? []))];
}
