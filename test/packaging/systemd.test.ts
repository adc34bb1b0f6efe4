/** The package on a machine with a real systemd, from its installation until nothing is left of it. */
import { assert, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { execFileSync } from "node:child_process"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { afterAll, beforeAll } from "vitest"
import * as dnsmasq from "../../src/lab/dnsmasq.ts"
import { namespaceFile } from "../../src/lab/labs.ts"
import { eventually } from "../../src/lab/scenario.ts"
import { hostRecords, named } from "../../src/lab/scenarios/dns.ts"
import * as services from "../../src/lab/services.ts"
import * as topology from "../../src/lab/topology.ts"
import { PAGE } from "../../src/lab/web.ts"
import { executable } from "../support/executable.ts"
import { describeWith } from "../support/requires.ts"
import { boot, type Machine, machineNeeds, makeNodePackage } from "./machine.ts"
import { checkTunnelService } from "./tunnelService.ts"

const NAME = "firezone-headless-client"
const root = path.join(import.meta.dirname, "../..")
const RESOURCE = "www.corp.test"
/** That nothing but its name is used of. */
const OTHER = "other.corp.test"
const PUBLIC = "public.example"
const PUBLIC_ADDRESS = topology.addresses.portal
const RESOLV_CONF = `# of this machine\nnameserver ${topology.addresses.dns4}\nsearch example\n`
/** Well before systemd starts the client again, so that it is not the new one that repairs things. */
const AT_ONCE_MILLIS = 5000
const RESTARTED_MILLIS = 40_000

let folder = ""
let packages: ReadonlyArray<string> = []
let node = ""

/** The same package with another version. */
const successor = (deb: string): string => {
  const work = fs.mkdtempSync(path.join(folder, "deb-"))
  execFileSync("dpkg-deb", ["-R", deb, work])
  const control = path.join(work, "DEBIAN/control")
  const text = fs.readFileSync(control, "utf8")
  fs.writeFileSync(control, text.replace(/^Version: (.*)$/m, "Version: $1+upgraded"))
  const target = deb.replace(/_([^_]*)\.deb$/, "_upgraded_$1.deb")
  execFileSync("dpkg-deb", ["-Zgzip", "-z1", "--root-owner-group", "--build", work, target], { stdio: "ignore" })
  return target
}

/** A lab without a client: the machine is in its place. */
const network = Effect.gen(function*() {
  const lab = yield* topology.scoped
  yield* services.start(lab, { executable, resources: [named(1, RESOURCE), named(2, OTHER)] })
  yield* dnsmasq.start(lab, "inet", [`host-record=${PUBLIC},${PUBLIC_ADDRESS}`, "local=/example/", "local=/test/"])
  yield* dnsmasq.start(lab, "res", [hostRecords(RESOURCE)])
  yield* dnsmasq.forGateway(lab)
  return namespaceFile(lab.name, "client")
})

const settings = `FIREZONE_API_URL=${services.apiUrl}
FIREZONE_ID=machine
FIREZONE_NAME=machine
`

const property = (machine: Machine, name: string) =>
  Effect.map(machine.run(`systemctl show --value -p ${name} ${NAME}`), ({ stdout }) => stdout.trim())

/** As every program of the machine looks names up. */
const addressOf = (machine: Machine, name: string) =>
  Effect.map(machine.run(`getent ahostsv4 ${name}`), ({ stdout }) => stdout.split(/\s/)[0])

const serves = (machine: Machine, when: string) =>
  Effect.gen(function*() {
    const page = yield* machine.run(`curl -sS -m 20 http://${RESOURCE}/`)
    const said = `${when}: ${page.stdout}${page.stderr}`
    assert.isTrue(page.stdout.includes(PAGE), page.code === 0 ? said : `${said}\n${yield* journal(machine)}`)
    assert.strictEqual(yield* addressOf(machine, PUBLIC), PUBLIC_ADDRESS, when)
  })

const journal = (machine: Machine) =>
  Effect.map(machine.run(`journalctl -u ${NAME} -n 40 --no-pager`), ({ stdout }) => stdout)

/** No step of the service's is left, and names are looked up as if there had never been one. */
const isAsWithout = (machine: Machine, when: string, resolvConf?: string) =>
  Effect.gen(function*() {
    assert.strictEqual(yield* addressOf(machine, PUBLIC), PUBLIC_ADDRESS, when)
    assert.strictEqual(yield* addressOf(machine, RESOURCE), "", when)
    if (resolvConf !== undefined) assert.strictEqual(`${yield* machine.must("cat /etc/resolv.conf")}\n`, resolvConf)
  })

/** Kills it, and waits until systemd has it running again; `meanwhile` is judged before. */
const killed = <E>(machine: Machine, meanwhile: Effect.Effect<boolean, E>) =>
  Effect.gen(function*() {
    const before = yield* property(machine, "MainPID")
    yield* machine.must(`kill -KILL ${before}`)
    const isNormal = yield* eventually(meanwhile, AT_ONCE_MILLIS)
    assert.isTrue(isNormal, `after kill -9, names work again at once\n${yield* journal(machine)}`)
    // systemd may not even have noticed the death.
    assert.include([before, "0"], yield* property(machine, "MainPID"), "the new one is not what did it")
    const isBack = yield* eventually(
      Effect.map(
        Effect.all([property(machine, "ActiveState"), property(machine, "MainPID")]),
        ([state, pid]) => state === "active" && pid !== before
      ),
      RESTARTED_MILLIS
    )
    assert.isTrue(isBack, `systemd starts it again\n${yield* journal(machine)}`)
  })

/** It has what only a machine like this one has, and nowhere the token. */
const isBundle = (machine: Machine) =>
  Effect.gen(function*() {
    yield* machine.must(
      `cd /root && ${NAME} debug bundle bundle.tar.gz 2>&1 && mkdir bundle && tar -xzf bundle.tar.gz -C bundle`
    )
    const names = yield* machine.must("cd /root/bundle/* && find . -type f")
    for (
      const name of [
        "client/status.json",
        "dns/resolvectl.txt",
        "host/unit.txt",
        "host/default.txt",
        "logs/journal.txt"
      ]
    ) {
      assert.include(names, `./${name}`)
    }
    assert.include(yield* machine.must("cat /root/bundle/*/logs/journal.txt"), "signed in to the portal")
    // The token of a lab is a short one: shorter than what is looked for by its form alone.
    const found = yield* machine.run(`grep -rlF -- '${services.tokens.client}' /root/bundle`)
    assert.deepStrictEqual([found.code, found.stdout], [1, ""])
    yield* machine.must("rm -r /root/bundle /root/bundle.tar.gz")
  })

const networkState = (machine: Machine) =>
  machine.must(
    "ip -o link show | sed 's/ state .*//'; ip rule; ip -6 rule; ip route show table all; ip -6 route show table all"
  )

describeWith(
  { ...machineNeeds, programs: [...machineNeeds.programs ?? [], "dnsmasq", "dig"] },
  "the package, to a machine",
  () => {
    beforeAll(() => {
      folder = fs.mkdtempSync(path.join(os.tmpdir(), "systemd-"))
      const deb = execFileSync(process.execPath, [path.join(root, "scripts/package-deb.mjs"), folder], {
        encoding: "utf8",
        stdio: ["ignore", "pipe", "ignore"]
      }).trim()
      packages = [deb, successor(deb)]
      node = makeNodePackage(folder)
    })
    afterAll(() => fs.rmSync(folder, { recursive: true }))

    it.live(
      "is installed, serves names, survives kill -9 and an upgrade, and leaves nothing when it goes",
      () =>
        Effect.gen(function*() {
          const machine = yield* boot(
            yield* network,
            `mkdir -p etc/systemd/resolved.conf.d
printf '[Resolve]\\nDNS=${topology.addresses.dns4}\\n' > etc/systemd/resolved.conf.d/lab.conf`
          )
          const { must } = machine
          yield* must(`apt-get install -y ${machine.put(node)}`)
          const [first = "", second = ""] = packages.map(machine.put)
          yield* isAsWithout(machine, "at first")
          const networkBefore = yield* networkState(machine)
          const before = yield* machine.snapshot

          yield* must(`apt-get install -y ${first}`)
          assert.strictEqual((yield* machine.run(`systemctl is-enabled ${NAME}`)).stdout.trim(), "disabled")
          assert.strictEqual(yield* property(machine, "ActiveState"), "inactive")
          const early = yield* machine.run(`systemctl start ${NAME}`)
          assert.notStrictEqual(early.code, 0, "without a token it does not start")

          yield* must(
            "umask 077; mkdir -m 755 -p /etc/dev.firezone.client; cat > /etc/dev.firezone.client/token",
            services.tokens.client
          )
          yield* must(`cat >> /etc/default/${NAME}`, settings)
          yield* must(`systemctl enable --now ${NAME}`)
          // Type=notify: it is up once the command returns.
          assert.match(yield* property(machine, "StatusText"), /^signed in; resources: 2/)
          yield* serves(machine, "by way of systemd-resolved")
          const status = yield* must(`${NAME} status`)
          assert.include(status, "by systemd-resolved")
          assert.include(yield* must(`${NAME} ping -c 1 ${RESOURCE}`), "1 answered")
          yield* isBundle(machine)
          yield* killed(
            machine,
            Effect.map(addressOf(machine, PUBLIC), (address) => address === PUBLIC_ADDRESS)
          )
          yield* serves(machine, "after kill -9")
          yield* must(`systemctl restart ${NAME}`)
          yield* serves(machine, "after a restart")
          yield* must(`systemctl stop ${NAME}`)
          yield* isAsWithout(machine, "after a stop")

          const given: Array<string | undefined> = []
          yield* checkTunnelService(machine, {
            without: (when) => isAsWithout(machine, when),
            withTunnel: (when) =>
              Effect.gen(function*() {
                // Not the first that is asked for in the first session, so that it has another address unless it keeps it.
                if (given.length === 0) yield* addressOf(machine, OTHER)
                given.push(yield* addressOf(machine, RESOURCE))
                yield* serves(machine, when)
              })
          })
          assert.strictEqual(given.length, 3)
          assert.strictEqual(given[1], given[0], "a name keeps its address from one GUI to the next")
          assert.notStrictEqual(given[2], given[0], "in another process it need not")

          // A machine without systemd-resolved.
          yield* must(`systemctl stop systemd-resolved; rm /etc/resolv.conf; cat > /etc/resolv.conf`, RESOLV_CONF)
          yield* must(`systemctl start ${NAME}`)
          yield* serves(machine, "by way of /etc/resolv.conf")
          assert.notStrictEqual(`${yield* must("cat /etc/resolv.conf")}\n`, RESOLV_CONF)
          yield* killed(
            machine,
            Effect.map(machine.run("cat /etc/resolv.conf"), ({ stdout }) => stdout === RESOLV_CONF)
          )
          yield* serves(machine, "after kill -9, by way of /etc/resolv.conf")

          const pid = yield* property(machine, "MainPID")
          yield* must(`apt-get install -y ${second}`)
          assert.match(yield* must(`dpkg-query -W -f '\${Version}' ${NAME}`), /\+upgraded$/)
          assert.notStrictEqual(yield* property(machine, "MainPID"), pid, "an upgrade runs the new version")
          assert.strictEqual(yield* property(machine, "ActiveState"), "active")
          yield* serves(machine, "after an upgrade")

          yield* must(`apt-get remove -y ${NAME}`)
          yield* isAsWithout(machine, "after its removal", RESOLV_CONF)
          assert.strictEqual(yield* must("cat /etc/dev.firezone.client/token"), services.tokens.client)
          yield* must(`apt-get purge -y ${NAME}`)
          // What this test has done itself.
          yield* must("rm /etc/resolv.conf; ln -s ../run/systemd/resolve/stub-resolv.conf /etc/resolv.conf")
          yield* must("systemctl start systemd-resolved")
          yield* isAsWithout(machine, "at the end")
          const after = yield* machine.snapshot
          const news = new Set(after)
          const olds = new Set(before)
          assert.deepStrictEqual(
            { added: after.filter((line) => !olds.has(line)), removed: before.filter((line) => !news.has(line)) },
            { added: [], removed: [] }
          )
          assert.isAbove(before.length, 5000)
          assert.strictEqual(yield* networkState(machine), networkBefore)
        }).pipe(Effect.scoped),
      600_000
    )
  }
)
