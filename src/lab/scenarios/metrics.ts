/** What metrics say, against `status`, the kernel's counters and the packets on the links. */
import * as Effect from "effect/Effect"
import * as capture from "../capture.ts"
import { eventually, type Recorder, type Scenario } from "../scenario.ts"
import type { Lab } from "../services.ts"
import { addresses } from "../topology.ts"
import { bringUp, connect, download, statusOf, TUN } from "./checks.ts"
import { CONNECT_BOUND } from "./paths.ts"

const PORT = 9464
const URL = `http://127.0.0.1:${PORT}/metrics`
/** Nobody listens there. */
const RECEIVER = "http://127.0.0.1:4318"
/** Of the client's sockets, and of nothing else on its host. */
const PEER_PORT = 52_625
const FILE_BYTES = 5_000_000
/** What nobody asked for in between, such as keepalives. */
const FEW = 50

type Figures = ReadonlyMap<string, number>

const parse = (text: string): Figures =>
  new Map(
    text.split("\n").filter((line) => line !== "" && !line.startsWith("#")).map((line) => {
      const space = line.lastIndexOf(" ")
      return [line.slice(0, space), Number(line.slice(space + 1))]
    })
  )

/** `undefined` if there is no answer. */
const scrape = (lab: Lab) =>
  Effect.map(
    lab.topology.run("client", ["curl", "-sSf", "-m", "5", URL]),
    ({ code, stdout }) => code === 0 ? parse(stdout) : undefined
  )

const figure = (figures: Figures | undefined, name: string): number => figures?.get(name) ?? Number.NaN

/** As the kernel counts what went through the tunnel device. */
const kernel = (lab: Lab) =>
  Effect.map(lab.topology.must("client", ["ip", "-s", "-j", "link", "show", TUN]), ({ stdout }) => {
    const [link] = JSON.parse(stdout) as ReadonlyArray<
      { readonly stats64: Record<"rx" | "tx", { readonly packets: number; readonly bytes: number }> }
    >
    // What the system transmits is what the client reads.
    return {
      firezone_tun_read_packets_total: link?.stats64.tx.packets ?? 0,
      firezone_tun_read_bytes_total: link?.stats64.tx.bytes ?? 0,
      firezone_tun_written_packets_total: link?.stats64.rx.packets ?? 0,
      firezone_tun_written_bytes_total: link?.stats64.rx.bytes ?? 0
    }
  })

/** Of the client's host, the loopback's first. */
const ownAddresses = (lab: Lab) =>
  Effect.map(lab.topology.must("client", ["ip", "-j", "addr"]), ({ stdout }) => {
    const links = JSON.parse(stdout) as ReadonlyArray<{ readonly addr_info: ReadonlyArray<{ readonly local: string }> }>
    const all = links.flatMap(({ addr_info }) => addr_info.map(({ local }) => local))
    return ["127.0.0.1", ...all.filter((address) => address.includes(".") && !address.startsWith("127.")), ...all]
  })

/** A scrape may be a second old, so the truth is between one before and one after it. */
const judgeBetween = (
  recorder: Recorder,
  name: string,
  before: Figures | undefined,
  truth: Readonly<Record<string, number>>,
  after: Figures | undefined
) =>
  recorder.check(
    name,
    Object.entries(truth).every(([metric, count]) =>
      count > 0 && figure(before, metric) <= count && count <= figure(after, metric)
    ),
    Object.entries(truth).map(([metric, count]) =>
      `${metric.slice("firezone_".length)}: ${figure(before, metric)} <= ${count} <= ${figure(after, metric)}`
    ).join("; ")
  )

/** Asks ten at a time, as long as the download takes. */
const scrapeDuring = <A, E>(lab: Lab, traffic: Effect.Effect<A, E>) =>
  Effect.gen(function*() {
    const answers: Array<Figures | undefined> = []
    const asking = Effect.forever(
      Effect.flatMap(
        Effect.all(Array.from({ length: 10 }, () => scrape(lab)), { concurrency: "unbounded" }),
        (some) => Effect.sync(() => void answers.push(...some))
      )
    )
    const [, outcome] = yield* Effect.raceFirst(
      Effect.map(asking, (never) => [never, undefined] as const),
      Effect.map(traffic, (outcome) => [undefined, outcome] as const)
    )
    return { answers, outcome }
  })

const judgeStatus = (lab: Lab, recorder: Recorder, figures: Figures | undefined, peer: string) =>
  Effect.gen(function*() {
    const status = yield* statusOf(lab)
    const later = yield* Effect.zipRight(Effect.sleep("1 second"), scrape(lab))
    const [found] = status.peers
    yield* judgeBetween(recorder, "what status says", figures, {
      "firezone_tun_read_packets_total": status.tun.read,
      "firezone_tun_written_bytes_total": status.tun.writtenBytes,
      "firezone_socket_received_bytes_total": status.sockets.receivedBytes,
      "firezone_socket_sent_datagrams_total": status.sockets.sent,
      "firezone_route_cache_misses_total": status.routeCache.misses,
      [`firezone_peer_received_bytes_total{peer="${peer}"}`]: found?.bytesReceived ?? 0
    }, later)
    const dropped = Object.values(status.dropped).reduce((sum, count) => sum + count, 0)
    const shown = [...figures ?? []].filter(([name]) => name.startsWith("firezone_dropped_packets_total"))
    yield* recorder.check(
      "what was dropped",
      shown.length > 20 && shown.reduce((sum, [, count]) => sum + count, 0) <= dropped,
      `${dropped} by ${shown.length} reasons`
    )
  })

export const metrics: Scenario = {
  name: "metrics",
  about:
    "metrics agree with status, kernel and links; who asks, and a receiver that is away, do not disturb the tunnel",
  run: (lab, recorder) =>
    Effect.gen(function*() {
      const watched = yield* capture.start(lab.topology, "client", ["wifi0", "lan0"], `udp port ${PEER_PORT}`)
      const client = yield* bringUp(lab, recorder, {
        // Without offloads the kernel counts packets as the client does, and not trains.
        args: ["--no-offloads", "--metrics-address", `127.0.0.1:${PORT}`, "--otlp-endpoint", RECEIVER],
        env: { OTEL_METRIC_EXPORT_INTERVAL: "1000" }
      })
      yield* connect(lab, recorder, addresses.resource4, CONNECT_BOUND)
      const { answers, outcome } = yield* scrapeDuring(lab, download(lab, addresses.resource4, FILE_BYTES))
      yield* recorder.check("download", outcome?.right === true, outcome?.detail ?? "it never ended")
      yield* recorder.check(
        "scraped meanwhile",
        answers.length >= 10 && answers.every((answer) => figure(answer, "firezone_interface_up") === 1),
        `${answers.length} times, each with an answer`
      )
      const [gateway] = (yield* lab.portal.state).gateways
      const peer = gateway?.id ?? ""
      const before = yield* Effect.zipRight(Effect.sleep("1 second"), scrape(lab))
      yield* recorder.check(
        "states",
        [
          "portal_state{state=\"connected\"}",
          "peers{state=\"connected\"}",
          "paths{kind=\"direct\"}",
          "relays{state=\"usable\"}"
        ]
          .every((name) => figure(before, `firezone_${name}`) === 1)
          && figure(before, `firezone_peer_direct{peer="${peer}"}`) === 1
          && figure(before, `firezone_peer_round_trip_seconds{peer="${peer}"}`) < 1,
        `connected to ${peer}, directly, ${figure(before, `firezone_peer_round_trip_seconds{peer="${peer}"}`)} s away`
      )
      yield* recorder.check(
        "bytes",
        figure(before, "firezone_tun_written_bytes_total") > FILE_BYTES
          && figure(before, "firezone_tun_written_bytes_total") < FILE_BYTES * 1.2,
        `${figure(before, "firezone_tun_written_bytes_total")} for applications, of which a file has ${FILE_BYTES}`
      )
      yield* judgeStatus(lab, recorder, before, peer)
      const counted = yield* kernel(lab)
      const datagrams = yield* watched.stop
      const own = yield* ownAddresses(lab)
      // Those that came may be trains, which the kernel has not cut.
      const links = {
        firezone_socket_sent_datagrams_total: datagrams.filter(({ source }) => own.includes(source)).length
      }
      const after = yield* eventually(
        Effect.map(scrape(lab), (figures) =>
          Object.entries({ ...links, ...counted }).every(([name, count]) =>
            figure(figures, name) >= count
          ) && figures),
        5000
      )
      yield* judgeBetween(recorder, "what the kernel counts", before, counted, after)
      yield* judgeBetween(recorder, "what crosses the links", before, links, after)
      yield* recorder.check(
        "to the packet",
        Object.keys(links).every((name) => figure(after, name) - figure(before, name) < FEW),
        `no more than ${FEW} datagrams came or went between the two`
      )
      const other = yield* lab.topology.run("client", ["curl", "-sS", "-m", "5", `http://127.0.0.1:${PORT}/`])
      const [, wifi] = own
      const outside = yield* lab.topology.run("client", ["curl", "-sS", "-m", "5", `http://${wifi}:${PORT}/metrics`])
      yield* recorder.check(
        "nothing else is there",
        other.stdout.includes("metrics are at /metrics") && outside.code === 7,
        `another path says where they are, and ${wifi} refuses: ${outside.stderr.trim()}`
      )
      yield* recorder.check(
        "the receiver that is away",
        client.log().split("metrics do not reach their receiver").length === 2,
        "is told of once"
      )
      client.signal("SIGTERM")
      const code = yield* client.exit
      yield* recorder.check("ends", code === 0, `with exit code ${code}`)
    })
}
