import { expect, it } from "@effect/vitest"
import { execFileSync } from "node:child_process"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { gunzipSync } from "node:zlib"
import { afterAll, beforeAll } from "vitest"
import { NODE } from "../../src/lab/services.ts"
import { isOurs } from "../../src/layers/dns/resolvConfText.ts"
import { executable } from "../support/executable.ts"
import { describeWith } from "../support/requires.ts"

const NAME = "firezone-headless-client"
const TUNNEL = `${NAME}-tunnel`
const root = path.join(import.meta.dirname, "../..")

/** Every path below a folder, with what tells whether it is the same. */
const tree = (folder: string): ReadonlyArray<string> =>
  fs.readdirSync(folder, { recursive: true, encoding: "utf8" }).sort().map((name) => {
    const { mode, uid } = fs.lstatSync(path.join(folder, name))
    return `${name} ${mode.toString(8)} ${uid}`
  })

describeWith({ root: true, programs: ["dpkg", "dpkg-deb", "md5sum", "sh"] }, "the Debian package", () => {
  let folder = ""
  let deb = ""
  const run = (command: string, ...args: ReadonlyArray<string>) =>
    execFileSync(command, args, { encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] })
  const extracted = () => {
    const target = fs.mkdtempSync(path.join(folder, "extracted-"))
    run("dpkg-deb", "-x", deb, target)
    return target
  }

  beforeAll(() => {
    if (!fs.existsSync(executable)) throw new Error(`${executable} is not built: npm run build`)
    folder = fs.mkdtempSync(path.join(os.tmpdir(), "deb-"))
    deb = run(process.execPath, path.join(root, "scripts/package-deb.mjs"), folder).trim()
  })
  afterAll(() => fs.rmSync(folder, { recursive: true }))

  it("says what it is", () => {
    expect(path.basename(deb)).toMatch(new RegExp(`^${NAME}_[\\d.]+_(amd64|arm64)\\.deb$`))
    const field = (name: string) => run("dpkg-deb", "-f", deb, name).trim()
    expect(field("Version")).toBe(JSON.parse(fs.readFileSync(path.join(root, "package.json"), "utf8")).version)
    expect(field("Depends")).toBe("nodejs (>= 20), libc6")
    expect(Number(field("Installed-Size"))).toBeGreaterThan(1000)
  })

  it("holds files of root's that nobody else can write, and nothing that only development needs", () => {
    const lines = run("dpkg-deb", "-c", deb).trim().split("\n")
    for (const line of lines) expect(line).toMatch(/^(?:[d-]rw[x-]r-[x-]r-[x-]|lrwxrwxrwx) root\/root /)
    const names = lines.map((line) => line.replace(/^.* \.\//, "./"))
    expect(names.filter((name) => /\.(?:map|ts|cc|hh)$|bench|musl/.test(name))).toEqual([])
    for (const unit of [NAME, TUNNEL]) expect(names).toContain(`./usr/lib/systemd/system/${unit}.service`)
    expect(names).toContain(`./usr/lib/sysusers.d/${NAME}.conf`)
    // The GUI's own package has files of these names.
    expect(
      names.filter((name) => /^\.\/usr\/(?:lib\/systemd\/system|lib\/sysusers\.d|bin)\/firezone-client/.test(name))
    ).toEqual([])
  })

  it("has a sum for each file, documentation, a manual and scripts that a shell can read", () => {
    const target = extracted()
    run("dpkg-deb", "-e", deb, path.join(target, "DEBIAN"))
    run("sh", "-ec", "cd \"$1\"; md5sum --quiet -c DEBIAN/md5sums", "sh", target)
    const files = tree(path.join(target, "usr")).filter((line) => / 100\d+ 0$/.test(line))
    const sums = fs.readFileSync(path.join(target, "DEBIAN/md5sums"), "utf8").trim().split("\n")
    expect(sums).toHaveLength(files.length + 1) // /etc/default
    for (const script of ["postinst", "prerm", "postrm"]) run("sh", "-n", path.join(target, "DEBIAN", script))
    const doc = path.join(target, "usr/share/doc", NAME)
    const copyright = fs.readFileSync(path.join(doc, "copyright"), "utf8")
    for (const library of ["effect", "koffi", "ws", "@noble/hashes"]) {
      expect(copyright).toContain(`contains ${library}:`)
    }
    expect(gunzipSync(fs.readFileSync(path.join(doc, "changelog.gz"))).toString()).toContain("# Changelog")
    const manual = gunzipSync(fs.readFileSync(path.join(target, `usr/share/man/man8/${NAME}.8.gz`))).toString()
    expect(manual).toContain("firezone-headless-client")
  })

  it("runs by itself, native library and all", () => {
    const client = path.join(extracted(), "usr/bin", NAME)
    expect(fs.readFileSync(client, "utf8").split("\n")[0]).toBe(["#!/usr/bin/node", ...NODE.slice(1)].join(" "))
    expect(run(process.execPath, client, "--version")).toMatch(/^firezone-headless-client \d/)
    const route = JSON.parse(run(process.execPath, client, "route", "explain", "127.0.0.1", "--json"))
    expect(JSON.stringify(route)).toContain("\"lo\"")
  })

  it("holds the tunnel service for a GUI, whose unit starts what is there and not the one of the GUI's package", () => {
    const target = extracted()
    const unit = fs.readFileSync(path.join(target, `usr/lib/systemd/system/${TUNNEL}.service`), "utf8")
    const [, program = "", command = ""] = /^ExecStart=(\S+) (\S+)$/m.exec(unit) ?? []
    expect(command).toBe("run")
    expect(run(process.execPath, path.join(target, program), "--version")).toMatch(/^firezone-client-tunnel \d/)
    expect(fs.statSync(path.join(target, program)).mode & 0o777).toBe(0o755)
    expect(unit).toContain("\nConflicts=firezone-client-tunnel.service\n")
    expect(unit).not.toContain("/usr/bin")
  })

  it("is installed, upgraded, removed and purged, and leaves nothing", () => {
    const target = fs.mkdtempSync(path.join(folder, "root-"))
    for (
      const sub of [
        "var/lib/dpkg/info",
        "var/lib/dpkg/updates",
        "var/log",
        "run",
        "etc/systemd/system/multi-user.target.wants"
      ]
    ) {
      fs.mkdirSync(path.join(target, sub), { recursive: true })
    }
    for (const name of ["status", "available"]) fs.writeFileSync(path.join(target, "var/lib/dpkg", name), "")
    const dpkg = (...args: ReadonlyArray<string>) =>
      run("dpkg", `--root=${target}`, "--force-script-chrootless", "--force-depends", "--log=/dev/null", ...args)
    const inTarget = (name: string) => path.join(target, name)
    const withoutDpkg = () => tree(target).filter((line) => !line.startsWith("var/lib/dpkg"))
    const write = (name: string) => {
      fs.mkdirSync(path.dirname(inTarget(name)), { recursive: true })
      fs.writeFileSync(inTarget(name), "")
    }
    const before = withoutDpkg()
    const links = [NAME, TUNNEL].map((name) => `etc/systemd/system/multi-user.target.wants/${name}.service`)

    dpkg("-i", deb)
    expect(fs.readFileSync(inTarget("var/lib/dpkg/status"), "utf8")).toContain("Status: install ok installed")
    for (const link of links) expect(fs.existsSync(inTarget(link))).toBe(false)
    // What an operator and the client make.
    for (const link of links) fs.symlinkSync(`/usr/lib/systemd/system/${path.basename(link)}`, inTarget(link))
    const made = [
      ...["etc", "var/lib", "var/log", "run"].map((name) => `${name}/dev.firezone.client/file`),
      "etc/resolv.conf.before-firezone"
    ]
    for (const name of made) write(name)
    fs.appendFileSync(inTarget(`etc/default/${NAME}`), "RUST_LOG=debug\n")

    dpkg("-i", deb)
    expect(fs.readFileSync(inTarget(`etc/default/${NAME}`), "utf8")).toContain("RUST_LOG=debug")
    dpkg("-r", NAME)
    expect(fs.existsSync(inTarget(`usr/bin/${NAME}`))).toBe(false)
    for (const name of [...made, `etc/default/${NAME}`]) expect(fs.existsSync(inTarget(name))).toBe(true)

    dpkg("-i", deb)
    dpkg("-P", NAME)
    expect(fs.existsSync(inTarget("etc/dev.firezone.client"))).toBe(false)
    expect(withoutDpkg()).toEqual(before)
  })

  it("leaves the files of a client with a screen in the same folders, and what a client that runs by hand needs", () => {
    const control = fs.mkdtempSync(path.join(folder, "control-"))
    run("dpkg-deb", "-e", deb, control)
    const target = fs.mkdtempSync(path.join(folder, "shared-"))
    const write = (name: string) => {
      fs.mkdirSync(path.dirname(path.join(target, name)), { recursive: true })
      fs.writeFileSync(path.join(target, name), "")
    }
    const purge = () =>
      execFileSync(path.join(control, "postrm"), ["purge"], { env: { PATH: process.env["PATH"], DPKG_ROOT: target } })
    const state = "var/lib/dev.firezone.client/config/firezone-id.json"
    const backup = "etc/resolv.conf.before-firezone"
    const resolvConf = "etc/resolv.conf"
    const other = "usr/lib/systemd/system/firezone-client-tunnel.service"
    write(state)
    write(other)
    write(backup)
    write(resolvConf)
    const ours = "# BEGIN Firezone DNS configuration\nnameserver 100.100.111.1\n"
    expect(isOurs(ours)).toBe(true)
    fs.writeFileSync(path.join(target, resolvConf), ours)
    purge()
    for (const name of [state, backup]) expect(fs.existsSync(path.join(target, name))).toBe(true)
    fs.rmSync(path.join(target, other))
    fs.writeFileSync(path.join(target, resolvConf), "nameserver 192.0.2.53\n")
    purge()
    for (const name of [state, backup]) expect(fs.existsSync(path.join(target, name))).toBe(false)
    expect(fs.existsSync(path.join(target, resolvConf))).toBe(true)
  })
})
