// dist/bin, dist/bench: bundles that start fast; dist/lib: modules and types for programs that import our Layers. What npm
// packs, with --lib, is without benchmarks.
//   node scripts/build.mjs [--lib]
import { build } from "esbuild"
import { spawnSync } from "node:child_process"
import { chmodSync, existsSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { dirname, join } from "node:path"
import { fileURLToPath } from "node:url"

const root = join(dirname(fileURLToPath(import.meta.url)), "..")
const isLibrary = process.argv.includes("--lib")
const { version } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"))
rmSync(join(root, "dist"), { recursive: true, force: true })

await build({
  absWorkingDir: root,
  entryPoints: [
    "bin/firezone-headless-client.ts",
    "bin/firezone-client-tunnel.ts",
    ...(!isLibrary && existsSync(join(root, "bench/bench.ts")) ? ["bench/bench.ts"] : [])
  ],
  outdir: "dist",
  outbase: ".",
  bundle: true,
  splitting: true,
  format: "esm",
  platform: "node",
  target: "node20",
  sourcemap: "linked",
  sourcesContent: false,
  legalComments: "linked",
  // Native code is loaded from where npm put it.
  external: ["koffi"],
  define: { __VERSION__: JSON.stringify(version) },
  banner: {
    js:
      "import { createRequire as __createRequire } from 'node:module'; const require = __createRequire(import.meta.url);"
  },
  logLevel: "warning"
})
for (const name of ["firezone-headless-client", "firezone-client-tunnel"]) {
  chmodSync(join(root, `dist/bin/${name}.js`), 0o755)
}

if (isLibrary) {
  const result = spawnSync(process.execPath, ["node_modules/typescript/bin/tsc", "-p", "tsconfig.build.json"], {
    cwd: root,
    stdio: "inherit"
  })
  if (result.status !== 0) process.exit(result.status ?? 1)
  // tsc replaces no constants as esbuild does.
  writeFileSync(join(root, "dist/lib/src/model/version.js"), `export const version = ${JSON.stringify(version)};\n`)
}
