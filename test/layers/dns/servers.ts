/** Real DNS servers in this process's network namespace. */
import * as Effect from "effect/Effect"
import { execFileSync, spawn } from "node:child_process"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { waitFor } from "../socket/support.ts"

/** Ends with the scope; `log` is what it has said so far. */
const server = (program: string, options: ReadonlyArray<string>, isReady: (log: string) => boolean) =>
  Effect.acquireRelease(
    Effect.sync(() => {
      const child = spawn(program, options, { stdio: ["ignore", "pipe", "pipe"] })
      let log = ""
      for (const stream of [child.stdout, child.stderr]) {
        stream.on("data", (chunk: Buffer) => {
          log += chunk.toString()
        })
      }
      return { child, log: () => log }
    }),
    ({ child }) => Effect.sync(() => child.kill("SIGKILL"))
  ).pipe(
    Effect.tap(({ child, log }) =>
      waitFor(`${program} to start`, () => {
        if (child.exitCode !== null) throw new Error(`${program} ended:\n${log()}`)
        return isReady(log())
      })
    )
  )

const runDnsmasq = (prefix: ReadonlyArray<string>, options: ReadonlyArray<string>) => {
  const [program = "dnsmasq", ...args] = [
    ...prefix,
    "dnsmasq",
    "--keep-in-foreground",
    "--conf-file=/dev/null",
    "--no-resolv",
    "--no-hosts",
    "--log-queries",
    "--log-facility=-",
    "--pid-file=",
    "--user=root",
    "--bind-interfaces",
    ...options
  ]
  return server(program, args, (log) => log.includes("started"))
}

/** Logs every query. */
export const dnsmasq = (address: string, options: ReadonlyArray<string>) =>
  runDnsmasq([], [`--listen-address=${address}`, ...options])

/** On all addresses of an interface alone, in the namespace that `prefix` leads to. */
export const dnsmasqOn = (prefix: ReadonlyArray<string>, interfaceName: string, options: ReadonlyArray<string>) =>
  runDnsmasq(prefix, [`--interface=${interfaceName}`, "--except-interface=lo", ...options])

export interface Authority {
  /** PEM of the root, which nothing but the test trusts. */
  readonly root: string
  readonly key: string
  readonly certificate: string
}

export const temporaryFolder = Effect.acquireRelease(
  Effect.sync(() => fs.mkdtempSync(path.join(os.tmpdir(), "dns-"))),
  (folder) => Effect.sync(() => fs.rmSync(folder, { recursive: true }))
)

/** A root of the test's own, and a certificate of `host` under it. */
export const makeAuthority = (folder: string, host: string): Authority => {
  const file = (name: string) => path.join(folder, name)
  const openssl = (...args: ReadonlyArray<string>) => execFileSync("openssl", args, { stdio: "pipe", cwd: folder })
  const key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
  openssl("req", "-x509", ...key, "-keyout", "root.key", "-out", "root.pem", "-days", "2", "-subj", "/CN=Test root")
  openssl("req", ...key, "-keyout", "server.key", "-out", "server.csr", "-subj", `/CN=${host}`)
  fs.writeFileSync(file("names"), `subjectAltName=DNS:${host}\n`)
  openssl(
    ...["x509", "-req", "-in", "server.csr", "-CA", "root.pem", "-CAkey", "root.key", "-CAcreateserial"],
    ...["-days", "2", "-extfile", "names", "-out", "server.pem"]
  )
  return { root: fs.readFileSync(file("root.pem"), "utf8"), key: file("server.key"), certificate: file("server.pem") }
}

/** Answers over HTTPS on port 443 of `address`, at `/dns-query`. */
export const unbound = (
  folder: string,
  address: string,
  { certificate, key }: Pick<Authority, "certificate" | "key">,
  records: ReadonlyArray<string>
) => {
  const config = path.join(folder, "unbound.conf")
  fs.writeFileSync(
    config,
    [
      "server:",
      ...[
        "do-daemonize: no",
        "chroot: \"\"",
        "username: \"\"",
        "use-syslog: no",
        "logfile: \"\"",
        "verbosity: 1",
        "pidfile: \"\"",
        "module-config: \"iterator\"",
        "access-control: 0.0.0.0/0 allow",
        `interface: ${address}@443`,
        `interface: ${address}@53`,
        "https-port: 443",
        `tls-service-key: "${key}"`,
        `tls-service-pem: "${certificate}"`,
        "http-endpoint: \"/dns-query\"",
        "local-zone: \"test.\" static",
        ...records.map((record) => `local-data: '${record}'`)
      ].map((line) => `  ${line}`),
      "remote-control:",
      "  control-enable: no",
      ""
    ].join("\n")
  )
  return server("unbound", ["-d", "-c", config], (log) => log.includes("start of service"))
}
