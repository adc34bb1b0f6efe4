import { assert, describe, it } from "@effect/vitest"
import { catalog } from "../../../src/layers/metrics/catalog.ts"
import { prometheusText } from "../../../src/layers/metrics/prometheusText.ts"
import { MAX_PEERS, Registry } from "../../../src/layers/metrics/Registry.ts"
import { tunnelStatus } from "../../support/TunnelDouble.ts"
import { parseExposition } from "./exposition.ts"
import { facts } from "./support.ts"

// Effect's registry is the process': each test looks at what it has added.
const registry = new Registry()
const shown = (changes: Parameters<typeof facts>[0] = {}) => {
  registry.update(facts(changes))
  return parseExposition(prometheusText(registry.snapshot()))
}
const valueOf = (families: ReturnType<typeof shown>, key: string): number | undefined =>
  families.get(key.split("{")[0] ?? "")?.samples.get(key)

const PEER = "77777777-7777-4777-8777-777777777777"
const [peer] = tunnelStatus().peers
const withId = (id: string) => ({ ...peer, peer: id }) as NonNullable<typeof peer>

describe("metrics", () => {
  it("are what the status says, in base units", () => {
    const families = shown()
    assert.deepStrictEqual(
      [
        "process_start_time_seconds",
        "process_cpu_seconds_total",
        "firezone_build_info{version=\"1.2.3\"}",
        "firezone_event_loop_lag_max_seconds",
        "firezone_portal_state{state=\"connected\"}",
        "firezone_portal_state{state=\"disconnected\"}",
        "firezone_resources{state=\"online\"}",
        "firezone_resources{state=\"offline\"}",
        "firezone_paths{kind=\"relayed-by-us\"}",
        "firezone_relays{state=\"usable\"}",
        `firezone_peer_received_bytes_total{peer="${PEER}"}`,
        `firezone_peer_round_trip_seconds{peer="${PEER}"}`,
        `firezone_peer_handshake_age_seconds{peer="${PEER}"}`,
        `firezone_peer_direct{peer="${PEER}"}`,
        "firezone_tun_written_bytes_total",
        "firezone_tun_dropped_packets_total{reason=\"no-buffer\"}",
        "firezone_socket_sent_datagrams_total",
        "firezone_dropped_packets_total{reason=\"unknown-resource\"}",
        "firezone_dropped_packets_total{reason=\"prohibited\"}",
        "firezone_dns_queries_total{answered_by=\"cache\"}",
        "firezone_dns_queries_total{answered_by=\"site\"}",
        "firezone_dns_failures_total{reason=\"timed-out\"}"
      ].map((key) => valueOf(families, key)),
      [1_700_000_000, 12.5, 1, 0.25, 1, 0, 1, 0, 1, 1, 2_500_000, 0.01234, 61.5, 0, 2_400_000, 2, 3, 12_345, 0, 7, 0, 1]
    )
  })

  it("are counters that only grow, also when what they are read from begins anew", () => {
    const before = valueOf(shown(), "firezone_tun_read_packets_total") ?? 0
    const { tun } = tunnelStatus()
    const read = (read: number) => valueOf(shown({ tun: { ...tun, read } }), "firezone_tun_read_packets_total")
    assert.deepStrictEqual([read(10), read(10), read(4), read(5)], [before + 7, before + 7, before + 11, before + 12])
  })

  it("follow the states of what is counted by state", () => {
    shown()
    const families = shown({ portal: { state: "disconnected" }, peers: [], resources: [] })
    assert.deepStrictEqual(
      [
        "firezone_portal_state{state=\"connected\"}",
        "firezone_portal_state{state=\"disconnected\"}",
        "firezone_resources{state=\"online\"}",
        "firezone_peers{state=\"connected\"}",
        "firezone_paths{kind=\"relayed-by-us\"}"
      ].map((key) => valueOf(families, key)),
      [0, 1, 0, 0, 0]
    )
  })

  it("forget peers that are gone, and figures that a peer has no more", () => {
    assert.isDefined(valueOf(shown(), `firezone_peer_round_trip_seconds{peer="${PEER}"}`))
    const { rttMillis: _, ...without } = withId(PEER)
    const still = shown({ peers: [without] })
    assert.isUndefined(valueOf(still, `firezone_peer_round_trip_seconds{peer="${PEER}"}`))
    assert.isDefined(valueOf(still, `firezone_peer_sent_bytes_total{peer="${PEER}"}`))
    assert.notInclude([...shown({ peers: [] }).keys()].join(), "firezone_peer_")
  })

  it("have a limit, whatever there is", () => {
    const peers = Array.from({ length: 1000 }, (_, i) => withId(`peer-${i}`))
    const dropped = Object.fromEntries(Array.from({ length: 1000 }, (_, i) => [`reason-${i}`, 1]))
    const families = shown({ peers, tun: { ...tunnelStatus().tun, dropped } })
    assert.strictEqual(families.get("firezone_peer_direct")?.samples.size, MAX_PEERS)
    assert.strictEqual(valueOf(families, "firezone_peers{state=\"connected\"}"), 1000)
    const reasons = families.get("firezone_tun_dropped_packets_total")
    assert.isAtMost(reasons?.samples.size ?? 1000, 65)
    const others = valueOf(families, "firezone_tun_dropped_packets_total{reason=\"other\"}") ?? 0
    assert.isAbove(others, 900)
    // One that goes makes room for another.
    const [first, ...rest] = peers
    assert.isDefined(valueOf(families, `firezone_peer_direct{peer="${first?.peer}"}`))
    assert.isDefined(valueOf(shown({ peers: rest }), `firezone_peer_direct{peer="peer-${MAX_PEERS}"}`))
  })

  it("are valid whatever a peer calls itself", () => {
    const id = "a\"b\\c\nd{e}=,"
    const labels = shown({ peers: [withId(id)] }).get("firezone_peer_direct")?.labels ?? []
    assert.deepStrictEqual(labels.map(({ labels }) => labels.get("peer")), [id])
  })

  it("hold no address and no name of a host, a resource or a site", () => {
    registry.update(facts())
    const text = prometheusText(registry.snapshot())
    for (const word of ["192.0.2.9", "2001:db8", "10.20.0.0", "Office", "HQ", "corp.test", "dns.example", "100.64."]) {
      assert.notInclude(text, word)
    }
  })

  it("have names as Prometheus wants them", () => {
    for (const { kind, name, unit } of catalog) {
      assert.match(name, /^(firezone|process)_[a-z0-9_]+$/)
      assert.strictEqual(name.endsWith("_total"), kind === "counter", name)
      if (unit === "s") assert.match(name, /_seconds(_total)?$/)
      if (unit === "By") assert.match(name, /_bytes(_total)?$/)
    }
    assert.strictEqual(new Set(catalog.map(({ name }) => name)).size, catalog.length)
  })
})
