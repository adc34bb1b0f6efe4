// Makes a Debian package of what is built, for this machine's architecture; needs dpkg-deb alone.
//   node scripts/package-deb.mjs [FOLDER]     prints where the package is; FOLDER is dist if not given
import { execFileSync } from "node:child_process"
import { createHash } from "node:crypto"
import {
  chmodSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync
} from "node:fs"
import { tmpdir } from "node:os"
import { dirname, join, relative, resolve } from "node:path"
import { fileURLToPath } from "node:url"
import { gzipSync } from "node:zlib"

const NAME = "firezone-headless-client"
/** Of the package; everything that only it needs is below. */
const HOME = `usr/lib/${NAME}`
const MAIN = `dist/bin/${NAME}.js`
/** Of the tunnel service for a GUI. */
const TUNNEL = "firezone-client-tunnel"
const PROGRAMS = [MAIN, `dist/bin/${TUNNEL}.js`]

const root = join(dirname(fileURLToPath(import.meta.url)), "..")
const { version } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"))
const architecture = { x64: "amd64", arm64: "arm64" }[process.arch]
if (process.platform !== "linux" || architecture === undefined) {
  throw new Error(`no Debian package for ${process.platform} on ${process.arch}`)
}

const work = mkdtempSync(join(tmpdir(), "package-deb-"))
process.on("exit", () => rmSync(work, { recursive: true, force: true }))

const put = (path, content, mode = 0o644) => {
  const file = join(work, path)
  mkdirSync(dirname(file), { recursive: true })
  writeFileSync(file, content)
  chmodSync(file, mode)
}
const copy = (from, to, mode) => put(to, readFileSync(join(root, from)), mode)

/** A built file and all that it imports, now or when it needs it. */
const reachable = (file, found = new Set()) => {
  if (found.has(file)) return found
  found.add(file)
  for (
    const [, name] of readFileSync(join(root, file), "utf8").matchAll(/(?:from|import)\s*\(?"(\.\.?\/[^"\n]+\.js)"/g)
  ) {
    reachable(join(dirname(file), name), found)
  }
  return found
}

// Chunks of the bundle without their source maps, which weigh as much again.
const files = PROGRAMS.reduce((found, file) => reachable(file, found), new Set())
for (const file of files) {
  // Root's PATH must not decide which Node runs: the package depends on this one. One thread for V8's own work is enough,
  // and better: docs/performance.md.
  const text = readFileSync(join(root, file), "utf8").replace(/^#!.*/, "#!/usr/bin/node --v8-pool-size=1").replace(
    /^\/\/# sourceMapp.*\n/m,
    ""
  )
  put(`${HOME}/${file}`, text, PROGRAMS.includes(file) ? 0o755 : 0o644)
}
put(`${HOME}/package.json`, `${JSON.stringify({ name: NAME, version, type: "module" })}\n`)
mkdirSync(join(work, "usr/bin"), { recursive: true })
symlinkSync(`../lib/${NAME}/${MAIN}`, join(work, "usr/bin", NAME))

// Of koffi what Node loads: no sources, and the binary for glibc alone.
const native = `node_modules/@koromix/koffi-linux-${process.arch}`
for (const file of ["package.json", "index.js", "src/koffi/index.js", "src/koffi/src/static.js"]) {
  copy(`node_modules/koffi/${file}`, `${HOME}/node_modules/koffi/${file}`)
}
for (const file of ["package.json", "index.js", `linux_${process.arch}/koffi.node`]) {
  copy(`${native}/${file}`, `${HOME}/${native}/${file}`)
}

copy(`packaging/systemd/${NAME}.service`, `usr/lib/systemd/system/${NAME}.service`)
// The GUI's own package has a unit and an executable of these names; it must still be possible to install it.
put(
  `usr/lib/systemd/system/${NAME}-tunnel.service`,
  readFileSync(join(root, `packaging/systemd/${TUNNEL}.service`), "utf8")
    .replaceAll(`/usr/bin/${TUNNEL}`, `/${HOME}/dist/bin/${TUNNEL}.js`)
    .replace("[Unit]\n", `[Unit]\nConflicts=${TUNNEL}.service\n`)
)
copy(`packaging/sysusers/${TUNNEL}.conf`, `usr/lib/sysusers.d/${NAME}.conf`)
copy("packaging/debian/default", `etc/default/${NAME}`)
put(`usr/share/man/man8/${NAME}.8.gz`, gzipSync(readFileSync(join(root, `packaging/debian/${NAME}.8`)), { level: 9 }))
// Where each shell looks for what packages bring.
const completions = {
  bash: `usr/share/bash-completion/completions/${NAME}`,
  zsh: `usr/share/zsh/vendor-completions/_${NAME}`,
  fish: `usr/share/fish/vendor_completions.d/${NAME}.fish`
}
for (const [shell, path] of Object.entries(completions)) {
  put(path, execFileSync(process.execPath, [join(root, MAIN), "completions", shell]))
}
const doc = `usr/share/doc/${NAME}`
copy("README.md", `${doc}/README.md`)
for (const name of readdirSync(join(root, "docs"))) copy(`docs/${name}`, `${doc}/docs/${name}`)
put(`${doc}/changelog.gz`, gzipSync(readFileSync(join(root, "CHANGELOG.md")), { level: 9 }))
const { dependencies } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"))
const licences = Object.keys(dependencies).map((name) => {
  const folder = join(root, "node_modules", name)
  const file = readdirSync(folder).find((file) => /^licen[cs]e/i.test(file))
  if (file === undefined) throw new Error(`${name} has no licence file`)
  return `It contains ${name}:\n\n${readFileSync(join(folder, file), "utf8")}`
})
const ours = `${NAME} is under the Apache License 2.0: see /usr/share/common-licenses/Apache-2.0\n`
put(`${doc}/copyright`, [ours, ...licences].join("\n"))

// What comes now is about the files so far.
const installed = readdirSync(work, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile())
  .map((entry) => join(entry.parentPath ?? entry.path, entry.name)).sort()
const contents = new Map(installed.map((file) => [relative(work, file), readFileSync(file)]))
const kibibytes = [...contents.values()].reduce((sum, bytes) => sum + Math.ceil(bytes.length / 1024), 0)
for (const script of ["postinst", "prerm", "postrm"]) copy(`packaging/debian/${script}`, `DEBIAN/${script}`, 0o755)
put("DEBIAN/conffiles", `/etc/default/${NAME}\n`)
const sum = (bytes) => createHash("md5").update(bytes).digest("hex")
put("DEBIAN/md5sums", [...contents].map(([path, bytes]) => `${sum(bytes)}  ${path}\n`).join(""))
put(
  "DEBIAN/control",
  `Package: ${NAME}
Version: ${version}
Architecture: ${architecture}
Maintainer: The ${NAME} authors <noreply@firezone-headless-client.invalid>
Installed-Size: ${kibibytes}
Depends: nodejs (>= 20), libc6
Section: net
Priority: optional
Description: Firezone client for machines without a screen
 Signs in to a Firezone portal with a service account's token, opens a tunnel
 device, and carries traffic for the resources that the account may reach to
 their gateways, encrypted with WireGuard.
`
)

// Whatever the umask of whoever builds.
for (const entry of readdirSync(work, { recursive: true, withFileTypes: true })) {
  if (entry.isDirectory()) chmodSync(join(entry.parentPath ?? entry.path, entry.name), 0o755)
}
chmodSync(work, 0o755)
const folder = resolve(process.argv[2] ?? join(root, "dist"))
mkdirSync(folder, { recursive: true })
const target = join(folder, `${NAME}_${version}_${architecture}.deb`)
execFileSync("dpkg-deb", ["--root-owner-group", "--build", work, target], { stdio: ["ignore", 2, 2] })
process.stdout.write(`${target}\n`)
