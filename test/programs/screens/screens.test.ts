/**
 * What a person sees in a terminal, beside the files of `golden`: somebody has looked at each of them. After a change that
 * is meant, `SCREENS=update npx vitest run test/programs/screens` writes them anew: look at the difference before it is
 * committed. The number in a prompt is the exit code of the command before. Times, sizes, versions and process ids are put
 * down as words; nothing else is left out.
 *
 * The clients that `status` and `ping` ask are played: the control socket is the real one, the session behind it is not.
 */
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Scope from "effect/Scope"
import * as fs from "node:fs"
import * as path from "node:path"
import { fileURLToPath } from "node:url"
import { assert, it, type TestContext } from "vitest"
import * as ControlServerUnix from "../../../src/layers/control/ControlServerUnix.ts"
import { ip, SocketAddress } from "../../../src/protocol/wire/address.ts"
import { ClientConfig } from "../../../src/services/ClientConfig.ts"
import { ControlServer } from "../../../src/services/ControlServer.ts"
import type { TunnelStatus } from "../../../src/services/Tunnel.ts"
import { describeWith } from "../../support/requires.ts"
import { makeRouteCacheDouble } from "../../support/RouteCacheDouble.ts"
import { settings } from "../../support/settings.ts"
import { NEEDS, openTerminal, type Terminal, type TerminalOptions } from "../../support/Terminal.ts"
import { makeTunnelDouble, tunnelStatus } from "../../support/TunnelDouble.ts"

const TOKEN = ".a-token-that-nobody-may-see"
const CLIENT = "firezone-headless-client"
const LIMIT_MILLIS = 60_000

const golden = path.join(path.dirname(fileURLToPath(import.meta.url)), "golden")
const isUpdate = process.env["SCREENS"] === "update"
const compared = new Set<string>()

/** Compares with the golden file of this name. */
const expectScreen = (name: string, screen: string): void => {
  compared.add(`${name}.txt`)
  const file = path.join(golden, `${name}.txt`)
  const text = `${normalised(screen)}\n`
  if (isUpdate) fs.writeFileSync(file, text)
  assert.isTrue(fs.existsSync(file), `${file} is missing`)
  assert.strictEqual(text, fs.readFileSync(file, "utf8"), `the screen of ${name}`)
}

const normalised = (text: string): string =>
  text
    .replaceAll(/(headless-client |Client +|client +(?:\{39\})?)\d+\.\d+\.\d+(-dev)?/g, "$1VERSION")
    .replaceAll(/process \d+/g, "process PID")
    .replaceAll(/\bup \d+ (s|min|h|d)( \d+ (s|min|h))?/g, "up TIME")
    .replaceAll(/answered after [\d.]+ ms/g, "answered after TIME")
    .replaceAll(/signed in(\{2\})? {2}[\d.]+ ms/g, "signed in$1  TIME")
    .replaceAll(/[\d.]+ \/ [\d.]+ \/ [\d.]+ ms/g, "TIME / TIME / TIME")
    // Of the machine.
    .replaceAll(/Linux \S+ on \w+, Node [\d.]+/g, "Linux KERNEL on MACHINE, Node VERSION")
    .replaceAll(/\d+ MB free/g, "SIZE free")
    .replaceAll(/(rmem_max|wmem_max) \d+/g, "$1 SIZE")
    .replaceAll(/offloads [a-z,]+/g, "offloads KINDS")
    .replaceAll(/[\d.]+ kB, \d+ files, \d+ left out/g, "SIZE, SOME files, SOME left out")

type Finish = TestContext["onTestFinished"]

const terminal = async (onTestFinished: Finish, options?: TerminalOptions): Promise<Terminal> => {
  const opened = await openTerminal(options)
  onTestFinished(opened.close)
  return opened
}

/** A client that is running on the terminal's machine, as far as its control socket. */
const playClient = async (onTestFinished: Finish, { controlFolder }: Terminal, status: TunnelStatus) => {
  const scope = Effect.runSync(Scope.make())
  const stop = () => Effect.runPromise(Scope.close(scope, Exit.void))
  onTestFinished(stop)
  const config = settings({
    apiUrl: new URL("wss://api.firezone.dev/"),
    controlSocket: path.join(controlFolder, "headless-tun-firezone.sock")
  })
  const tunnel = await Effect.runPromise(makeTunnelDouble)
  tunnel.status = status
  await Effect.runPromise(
    Effect.flatMap(ControlServer, (server) => server.serve(tunnel.session)).pipe(
      Effect.provide(Layer.provide(ControlServerUnix.layer, [
        makeRouteCacheDouble().layer,
        Layer.succeed(ClientConfig, config)
      ])),
      Scope.extend(scope)
    )
  )
  return { tunnel, stop }
}

const [gateway] = tunnelStatus().peers
const [lan] = tunnelStatus().resources
if (gateway === undefined || lan === undefined) throw new Error("the double has no gateway or no resource")

const nothingYet: Partial<TunnelStatus> = {
  interface: undefined,
  dns: undefined,
  resources: [],
  peers: [],
  dropped: {},
  tun: { read: 0, readBytes: 0, written: 0, writtenBytes: 0, dropped: {}, offloads: "" },
  sockets: { received: 0, receivedBytes: 0, sent: 0, sentBytes: 0, dropped: {} },
  routeCache: {
    generation: 0,
    size: 0,
    hits: 0,
    misses: 0,
    sharedWaits: 0,
    staleDiscarded: 0,
    evictions: 0,
    invalidations: {}
  }
}
const OTHER_GATEWAY = "5c827b42-f8de-4c79-a7bd-199104bfa202"
const link = {
  name: "tun-firezone",
  ipv4: ip("100.64.0.2"),
  ipv6: ip("fd00:2021:1111::2"),
  works: { ipv4: true, ipv6: true }
}
/** One resource directly, one over a relay, one offline, and the Internet. */
const busy = tunnelStatus({
  interface: link,
  resources: [
    lan,
    {
      ...lan,
      id: "1",
      type: "dns",
      name: "GitLab of the Berlin office",
      address: "gitlab.berlin.corp.example",
      sites: [{ id: "2", name: "Berlin" }],
      gateway: OTHER_GATEWAY
    },
    {
      ...lan,
      id: "3",
      name: "Warehouse",
      address: "fd20:1234:5678:9abc::/64",
      sites: [{ id: "4", name: "Hamburg" }],
      status: "Offline",
      gateway: undefined,
      refusal: { reason: "offline", violated: [], ageMillis: 42_000 }
    },
    { ...lan, id: "5", type: "internet", name: "Internet", address: "", status: "Unknown", gateway: undefined }
  ],
  peers: [gateway, {
    ...gateway,
    peer: OTHER_GATEWAY,
    path: {
      kind: "direct",
      local: new SocketAddress(ip("2001:db8:20:1234:5678:9abc:def0:2"), 52_625),
      remote: new SocketAddress(ip("2001:db8:30:1234:5678:9abc:def0:2"), 52_625)
    },
    rttMillis: 3.21,
    handshakeAgeMillis: 5000
  }]
})
const outage = tunnelStatus({
  ...busy,
  portal: { state: "disconnected", lastError: "no connection to api.firezone.dev:443: ETIMEDOUT" }
})
const connecting = tunnelStatus({ ...nothingYet, portal: { state: "connecting" } })

/** Sends the lines one after the other in a terminal of its own, and compares what that shows. */
const screen = (
  name: string,
  lines: ReadonlyArray<string>,
  options: TerminalOptions & { readonly status?: TunnelStatus; readonly coloured?: boolean } = {}
) =>
  it.concurrent(name, async ({ onTestFinished }) => {
    const opened = await terminal(onTestFinished, options)
    if (options.status !== undefined) await playClient(onTestFinished, opened, options.status)
    for (const line of lines) await opened.run(line)
    expectScreen(name, await (options.coloured === true ? opened.coloured() : opened.everything()))
  }, LIMIT_MILLIS)

/** A machine with an interface of the tunnel's name, at whose other end a host of `10.20.0.0/16` answers. */
const TUNNEL = `
unshare --net sleep infinity & other=$!
while [ "$(readlink /proc/$other/ns/net)" = "$(readlink /proc/$$/ns/net)" ]; do :; done
ip link add tun-firezone type veth peer name eth0 netns $other
nsenter -n -t $other sh -c 'ip link set lo up; ip addr add 10.20.0.9/16 dev eth0; ip link set eth0 up
  ip route add 100.64.0.2 dev eth0'
ip addr add 100.64.0.2/32 dev tun-firezone
ip link set tun-firezone up
ip route add 10.20.0.0/16 dev tun-firezone
`

const COMMANDS = [
  "status",
  "doctor",
  "ping",
  "sign-in",
  "sign-out",
  "route explain",
  "debug bundle",
  "completions",
  "dns-cleanup",
  "lab"
]

describeWith({ ...NEEDS, programs: [...NEEDS.programs, "nsenter"] }, "screens", () => {
  screen("help", [`${CLIENT} --help`])
  screen("help-of-commands", COMMANDS.map((command) => `${CLIENT} ${command} --help`))

  screen("status-no-client", [`${CLIENT} status`, `${CLIENT} status --watch`])
  screen("status-connecting", [`${CLIENT} status`], { status: connecting })
  screen("status-connected", [`${CLIENT} status`], { status: busy })
  screen("status-wide", [`${CLIENT} status`], { status: busy, columns: 120, rows: 40 })
  screen("status-outage", [`${CLIENT} status`], { status: outage })
  screen("status-colours", [`${CLIENT} status`], { status: busy, coloured: true })
  screen("status-no-colours", [`NO_COLOR=1 ${CLIENT} status`], { status: connecting, coloured: true })

  it.concurrent("status-watch", async ({ onTestFinished }) => {
    const opened = await terminal(onTestFinished)
    await opened.run("echo what was there before")
    const before = await opened.modes()
    const { stop, tunnel } = await playClient(onTestFinished, opened, connecting)
    await opened.type(`${CLIENT} status --watch`)
    await opened.press("Enter")
    expectScreen("status-watch-connecting", await opened.until("a status", (seen) => seen.includes("connecting")))
    assert.deepStrictEqual(await opened.modes(), { cursor: false, alternate: true, wrap: false })
    tunnel.status = busy
    expectScreen(
      "status-watch-connected",
      await opened.until("the next one", (seen) => seen.includes("Portal       signed in"))
    )
    await opened.resize(120, 50)
    const wide = await opened.until("all of it", (seen) => seen.includes("no-buffer 2"))
    expectScreen("status-watch-wide", wide)
    await opened.resize(60, 12)
    const narrow = await opened.until(
      "a small one",
      (seen) => seen.includes("more lines need") && seen.endsWith("q to leave")
    )
    expectScreen("status-watch-narrow", narrow)
    await opened.resize(80, 24)
    tunnel.status = outage
    await opened.until("the outage", (seen) => seen.includes("out of reach"))
    await opened.press("q")
    await opened.until("a prompt", (seen) => seen.endsWith("\n[0] #"))
    assert.deepStrictEqual(await opened.modes(), before)

    await opened.type(`${CLIENT} status --watch`)
    await opened.press("Enter")
    await opened.until("the outage", (seen) => seen.includes("out of reach"))
    await opened.press("C-c")
    expectScreen("status-watch-left", await opened.until("a prompt", (seen) => seen.endsWith("\n[0] #")))
    assert.deepStrictEqual(await opened.modes(), before)

    tunnel.status = connecting
    await opened.type(`${CLIENT} status --watch`)
    await opened.press("Enter")
    await opened.until("a status", (seen) => seen.includes("q to leave"))
    await stop()
    await opened.until("a prompt", (seen) => seen.endsWith("\n[1] #"))
    assert.deepStrictEqual(await opened.modes(), before)
    // Typed text is seen again.
    await opened.run("echo after")
    expectScreen("status-watch-stopped", await opened.everything())
  }, LIMIT_MILLIS)

  screen("doctor", [`${CLIENT} doctor`], {
    prepare: "echo 0 > /proc/sys/net/ipv4/conf/all/rp_filter; echo nameserver 192.0.2.53 > /etc/resolv.conf"
  })
  const ping = `${CLIENT} ping -c 2 -i 0.2`
  screen("ping", [`${ping} 10.20.0.9`], { status: busy, prepare: TUNNEL })
  screen("ping-unknown", [`${ping} nothing.example`], { status: busy })
  screen("ping-no-route", [`${ping} 10.20.0.9`], { status: busy })
  screen("ping-silent", [`${ping} -w 1 10.20.0.77`], { status: busy, prepare: TUNNEL })

  it.concurrent("sign-in", async ({ onTestFinished }) => {
    const opened = await terminal(onTestFinished, { rows: 30 })
    await opened.type(`${CLIENT} sign-in`)
    await opened.press("Enter")
    await opened.until("the question", (seen) => seen.endsWith("Token:"))
    await opened.type(TOKEN)
    await opened.press("Enter")
    await opened.until("a prompt", (seen) => seen.endsWith("\n[0] #"))
    await opened.run("stat -c '%a %U %s' /etc/dev.firezone.client/token")
    await opened.run(`echo n | ${CLIENT} sign-out`)
    await opened.run(`${CLIENT} sign-out --force`)
    await opened.run(`${CLIENT} sign-out`)
    const everything = await opened.everything()
    assert.notInclude(everything, TOKEN)
    expectScreen("sign-in", everything)
  }, LIMIT_MILLIS)
  it.concurrent("sign-in-cancelled", async ({ onTestFinished }) => {
    const opened = await terminal(onTestFinished)
    await opened.type(`${CLIENT} sign-in --account-slug acme`)
    await opened.press("Enter")
    await opened.until("the question", (seen) => seen.endsWith("Token:"))
    await opened.press("C-c")
    await opened.until("a prompt", (seen) => seen.endsWith("\n[0] #"))
    await opened.run(`setsid -w ${CLIENT} sign-in`)
    expectScreen("sign-in-cancelled", await opened.everything())
  }, LIMIT_MILLIS)

  screen("debug-bundle", [
    `${CLIENT} debug bundle a.tar.gz`,
    `${CLIENT} debug bundle a.tar.gz`
  ])

  screen("errors-of-usage", [
    `${CLIENT} --nope`,
    `${CLIENT} stauts`,
    `${CLIENT} status --wacth`,
    `${CLIENT} ping`,
    `${CLIENT} route explain gitlab.example`,
    `${CLIENT} --api-url nonsense`,
    `${CLIENT} --token x`,
    `${CLIENT} --log-dir`,
    `${CLIENT} --dns-control never`
  ])
  screen("errors-of-the-token", [
    CLIENT,
    "mkdir /etc/dev.firezone.client; echo x > /etc/dev.firezone.client/token",
    "chmod 644 /etc/dev.firezone.client/token",
    CLIENT,
    "chmod 600 /etc/dev.firezone.client/token; echo > /etc/dev.firezone.client/token",
    CLIENT
  ], { env: { FIREZONE_LOG: "off" } })
  screen("errors-of-rights", [
    `${CLIENT} status`,
    `${CLIENT} ping x`,
    `${CLIENT} sign-in`,
    `FIREZONE_TOKEN=x FIREZONE_ID=x ${CLIENT}`
  ], { status: busy, asNobody: true, env: { FIREZONE_LOG: "off" } })
  screen("errors-of-another-program", [`${CLIENT} status`], {
    prepare: "touch /run/dev.firezone.client/headless-tun-firezone.sock"
  })

  it("has no golden file that nothing is compared with", () => {
    assert.deepStrictEqual(fs.readdirSync(golden).toSorted(), [...compared].toSorted())
  })
})
