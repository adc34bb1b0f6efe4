/** The system's DNS points at the client while it runs, and is as before when it does not, however it ended. */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as dnsmasq from "../dnsmasq.ts"
import type { LabError } from "../LabError.ts"
import type { ResourceConfig } from "../portal/config.ts"
import type { Daemon } from "../processes.ts"
import { eventually, type Recorder, type Scenario } from "../scenario.ts"
import { ids, type Lab } from "../services.ts"
import { addresses } from "../topology.ts"
import { bringUp, fetchPage, noViolations } from "./checks.ts"

export const FILE = "/etc/resolv.conf"
const MARKER = "# BEGIN Firezone DNS configuration"
const RESOURCE = "www.corp.test"
export const SEARCH_DOMAIN = "corp.test"
/** The machine's own. */
export const OWN_DOMAIN = "example"
export const PUBLIC_ADDRESS = "203.0.113.2"
/** The client looks every second, and twice. */
export const REPAIRED_MILLIS = 10_000
/** Host spec section 18, test 37. */
export const STOPPED_MILLIS = 5000
const GONE_MILLIS = 2000

const resources: ReadonlyArray<ResourceConfig> = [{
  type: "dns",
  id: "77777777-7777-4777-8777-000000000001",
  name: RESOURCE,
  address: RESOURCE,
  address_description: null,
  ip_stack: "dual",
  sites: [ids.site],
  filters: []
}]

export const equipment = { resources, dns: { searchDomain: SEARCH_DOMAIN } }

export const startNameServers = (lab: Lab, options: ReadonlyArray<string> = []) =>
  Effect.gen(function*() {
    yield* dnsmasq.start(lab.topology, "inet", [
      ...[`host-record=public.${OWN_DOMAIN},${PUBLIC_ADDRESS}`, `local=/${OWN_DOMAIN}/`, "local=/test/"],
      ...options
    ])
    yield* dnsmasq.start(lab.topology, "res", [
      `host-record=${RESOURCE},${addresses.resource4},${addresses.resource6}`
    ])
    yield* dnsmasq.forGateway(lab.topology)
  })

export const read = (lab: Lab): Effect.Effect<string, LabError> =>
  Effect.map(lab.topology.run("client", ["cat", FILE]), ({ stdout }) => stdout)

const write = (lab: Lab, script: string, text = ""): Effect.Effect<void, LabError> =>
  Effect.asVoid(lab.topology.must("client", ["sh", "-ec", script], { input: text }))

/** As every program of the host looks names up. */
export const checkAddress = (lab: Lab, recorder: Recorder, title: string, name: string) =>
  Effect.gen(function*() {
    const { stdout } = yield* lab.topology.run("client", ["getent", "ahostsv4", name])
    const [address = "no address"] = stdout.split(/\s/)
    yield* recorder.check(title, address === PUBLIC_ADDRESS, `getent ${name}: ${address || "nothing"}`)
  })

export const checkNames = (lab: Lab, recorder: Recorder) =>
  Effect.gen(function*() {
    yield* fetchPage(lab, recorder, RESOURCE)
    yield* fetchPage(lab, recorder, "www")
    yield* checkAddress(lab, recorder, "anybody else", `public.${OWN_DOMAIN}`)
    yield* checkAddress(lab, recorder, "in the machine's own search domain", "public")
  })

const isPointed = (text: string): boolean =>
  text.startsWith(MARKER) && /^nameserver (100\.100\.111\.|fd00:2021:1111:8000:100:100:111:)/m.test(text)

export const checkPointed = (lab: Lab, recorder: Recorder, title: string) =>
  Effect.gen(function*() {
    const text = yield* eventually(Effect.map(read(lab), (text) => isPointed(text) && text), REPAIRED_MILLIS)
    yield* recorder.check(
      title,
      text !== undefined,
      text?.split("\n").filter((line) => !line.startsWith("#")).join(", ") ?? `${FILE} is not the client's`
    )
  })

export const checkText = (lab: Lab, recorder: Recorder, title: string, expected: string) =>
  Effect.gen(function*() {
    const text = yield* read(lab)
    yield* recorder.check(
      title,
      text === expected,
      text === expected ? `${FILE} is byte for byte as before` : JSON.stringify(text)
    )
  })

export const kill = (client: Daemon) => Effect.zipRight(Effect.sync(() => client.signal("SIGKILL")), client.exit)

const checkCommand = (
  lab: Lab,
  recorder: Recorder,
  title: string,
  options: Parameters<Lab["runClient"]>[0],
  isRight: (code: number, said: string) => boolean
) =>
  Effect.gen(function*() {
    const { code, stderr, stdout } = yield* lab.runClient(options)
    const said = `${stdout}${stderr}`.trim()
    yield* recorder.check(title, isRight(code, said), `exit code ${code}${code === 0 ? "" : `: ${said}`}`)
  })

const ORIGINAL = `# of this machine
domain lan.example
nameserver ${addresses.dns4}
search ${OWN_DOMAIN} lan.example # these
options ndots:1 timeout:3 edns0
unknown word`
/** What a DHCP client writes. */
const RENEWED = `nameserver ${addresses.dns6}\nsearch ${OWN_DOMAIN}\n`

const etcResolvConf = { dnsControl: "etc-resolv-conf" }

const runEtcResolvConf = (lab: Lab, recorder: Recorder): Effect.Effect<void, LabError, Scope.Scope> =>
  Effect.gen(function*() {
    yield* startNameServers(lab)
    yield* write(lab, `cat > ${FILE}`, ORIGINAL)
    const first = yield* bringUp(lab, recorder, etcResolvConf)
    yield* checkPointed(lab, recorder, "DNS is pointed at the client")
    yield* checkNames(lab, recorder)
    const began = Date.now()
    first.signal("SIGTERM")
    const code = yield* first.exit
    const millis = Date.now() - began
    yield* recorder.check(
      "stops (host 18.37)",
      code === 0 && millis < STOPPED_MILLIS,
      `exit code ${code} ${millis} ms after SIGTERM, of at most ${STOPPED_MILLIS}`
    )
    yield* checkText(lab, recorder, "after SIGTERM", ORIGINAL)
    // Without a goodbye it would find out by the silence, much later.
    const isGone = yield* eventually(Effect.map(lab.gateway.state, ({ peers }) => peers.length === 0), GONE_MILLIS)
    yield* recorder.check("goodbye (host 18.37)", isGone === true, "the gateway has no connection to it any more")

    const second = yield* bringUp(lab, recorder, { dnsControl: "auto" })
    yield* checkPointed(lab, recorder, "auto takes the file")
    yield* checkCommand(
      lab,
      recorder,
      "a second client is refused",
      { ...etcResolvConf, args: ["--tun-name", "tun-second"] },
      (code, said) => code === 1 && said.includes(`another client has it, process ${second.pid}`)
    )
    yield* checkCommand(
      lab,
      recorder,
      "whose settings may be checked",
      { ...etcResolvConf, args: ["--check"] },
      (code) => code === 0
    )
    yield* checkCommand(
      lab,
      recorder,
      "dns-cleanup says why not",
      { args: ["dns-cleanup"] },
      (code, said) => code === 0 && said.includes("left as it is") && said.includes(`process ${second.pid}`)
    )
    const meanwhile = yield* read(lab)
    yield* recorder.check("the first one's DNS", isPointed(meanwhile), "is as it was")
    yield* write(lab, `cat > ${FILE}.new && mv ${FILE}.new ${FILE}`, RENEWED)
    yield* checkPointed(lab, recorder, "a file that was replaced is noticed")
    yield* checkNames(lab, recorder)
    yield* kill(second)
    const left = yield* read(lab)
    yield* recorder.check("after SIGKILL", isPointed(left), `${FILE} still leads to the client that is no more`)
    yield* checkCommand(
      lab,
      recorder,
      "dns-cleanup",
      { args: ["dns-cleanup"], env: { FIREZONE_TOKEN: "" } },
      (code) => code === 0
    )
    yield* checkText(lab, recorder, "after dns-cleanup", RENEWED)
    yield* checkCommand(
      lab,
      recorder,
      "dns-cleanup again",
      { args: ["dns-cleanup"] },
      (code, said) => code === 0 && said === ""
    )
    yield* checkText(lab, recorder, "changes nothing", RENEWED)

    // As in a container: nothing can be renamed to it.
    yield* write(lab, `cp ${FILE} /run/mounted && mount --bind /run/mounted ${FILE}`)
    const third = yield* bringUp(lab, recorder, etcResolvConf)
    yield* checkPointed(lab, recorder, "pointed at the client again")
    yield* kill(third)
    yield* checkCommand(lab, recorder, "the next start", { ...etcResolvConf, args: ["--check"] }, (code) => code === 0)
    yield* checkText(lab, recorder, "brings it back (host 18.38)", RENEWED)

    yield* write(lab, `mount -o remount,bind,ro ${FILE}`)
    const refused = yield* lab.startClient(etcResolvConf)
    const refusal = yield* refused.exit
    yield* recorder.check(
      "a file that is read-only",
      refusal === 1 && refused.log().includes(`write ${FILE}: EROFS`),
      `exit code ${refusal}: ${refused.log().trim().split("\n").at(-1)}`
    )
    yield* checkText(lab, recorder, "stays as it is", RENEWED)
    const without = yield* bringUp(lab, recorder, { dnsControl: "auto" })
    yield* recorder.check(
      "auto does without it",
      without.log().includes("DNS control: disabled") && without.log().includes(`${FILE} may not be written`),
      "the client runs, and says why names will not resolve"
    )
    yield* kill(without)
    yield* write(lab, `umount ${FILE}`)

    yield* write(lab, `mv ${FILE} /etc/other && ln -s other ${FILE}`)
    yield* checkCommand(
      lab,
      recorder,
      "a link is refused",
      { ...etcResolvConf, args: ["--check"] },
      (code, said) => code === 1 && said.includes(`${FILE}: it is a symbolic link`)
    )
    yield* noViolations(lab, recorder)
  })

export const dnsEtcResolvConf: Scenario = {
  name: "dns-control",
  about: "names work in every program by way of /etc/resolv.conf, which is as before after a stop, a kill and a change",
  equipment,
  run: runEtcResolvConf
}
