import * as Metric from "effect/Metric"
import * as MetricKey from "effect/MetricKey"
import type * as MetricPair from "effect/MetricPair"
import * as MetricRegistry from "effect/MetricRegistry"
import { catalog, type Definition, type Facts, type Peer } from "./catalog.ts"

/** Peers with figures of their own at a time; of more there are the sums only. */
export const MAX_PEERS = 64
/** Values of one label; whatever comes beyond is counted as one of them. */
const MAX_LABELS = 64
const OTHER = "other"

const names: ReadonlySet<string> = new Set(catalog.map(({ name }) => name))

/** One figure of a metric, in one of Effect's registries. */
class Series {
  readonly #update: (value: number) => void
  readonly #isCounter: boolean
  #total = 0

  constructor(registry: MetricRegistry.MetricRegistry, definition: Definition, label: string | undefined) {
    const { help: description, kind, name } = definition
    // A key with a tag stays a key of its kind, which the type of `MetricKey.tagged` does not say of a generic one.
    const tagged = <Key extends Parameters<typeof registry.get>[0]>(key: Key): Key =>
      label === undefined || definition.label === undefined
        ? key
        : MetricKey.tagged(key, definition.label, label) as unknown as Key
    this.#isCounter = kind === "counter"
    const hook = this.#isCounter
      ? registry.getCounter(tagged(MetricKey.counter(name, { description, incremental: true })))
      : registry.getGauge(tagged(MetricKey.gauge(name, { description })))
    this.#update = hook.update
  }

  /** Counters are told their total. A total that has become smaller is one that began anew. */
  set(value: number): void {
    if (!this.#isCounter) return this.#update(value)
    this.#update(value >= this.#total ? value - this.#total : value)
    this.#total = value
  }
}

/** The figures of one metric by its label's values. */
class Family {
  readonly #definition: Definition
  readonly #series = new Map<string, Series>()

  constructor(definition: Definition) {
    this.#definition = definition
    for (const value of definition.values ?? []) this.#at(value).set(0)
  }

  set(figures: { readonly [label: string]: number }): void {
    let others = 0
    let areOthers = false
    for (const [label, value] of Object.entries(figures)) {
      if (this.#series.has(label) || this.#series.size < MAX_LABELS) {
        this.#at(label).set(value)
      } else {
        areOthers = true
        others += value
      }
    }
    if (areOthers) this.#at(OTHER).set(others)
    if (this.#definition.kind === "counter") return
    for (const [label, series] of this.#series) {
      if (!Object.hasOwn(figures, label) && !(areOthers && label === OTHER)) series.set(0)
    }
  }

  #at(label: string): Series {
    let series = this.#series.get(label)
    if (series === undefined) {
      series = new Series(Metric.globalMetricRegistry, this.#definition, label)
      this.#series.set(label, series)
    }
    return series
  }
}

/** The figures of one peer, which end with it. */
class PeerFigures {
  readonly #counters = MetricRegistry.make()
  readonly #series = new Map<string, Series>()
  /** Made anew each time, so that nothing stays which has no figure any more. */
  #gauges = MetricRegistry.make()

  update(peer: Peer): void {
    this.#gauges = MetricRegistry.make()
    for (const definition of catalog) {
      const value = definition.ofPeer?.(peer)
      if (value === undefined) continue
      if (definition.kind === "counter") this.#counter(definition, peer.peer).set(value)
      else new Series(this.#gauges, definition, peer.peer).set(value)
    }
  }

  snapshot(): ReadonlyArray<MetricPair.MetricPair.Untyped> {
    return [...this.#counters.snapshot(), ...this.#gauges.snapshot()]
  }

  #counter(definition: Definition, peer: string): Series {
    let series = this.#series.get(definition.name)
    if (series === undefined) {
      series = new Series(this.#counters, definition, peer)
      this.#series.set(definition.name, series)
    }
    return series
  }
}

/**
 * The catalog's figures in Effect's metrics: brought up to date when somebody wants to see them, so that nobody pays for
 * them in between. Those that have no `read` are there already. One for a process.
 */
export class Registry {
  readonly #scalars = new Map<string, Series>()
  readonly #families = new Map<string, Family>()
  readonly #peers = new Map<string, PeerFigures>()

  constructor() {
    for (const definition of catalog) {
      if (definition.read === undefined) continue
      if (definition.label === undefined) {
        this.#scalars.set(definition.name, new Series(Metric.globalMetricRegistry, definition, undefined))
      } else {
        this.#families.set(definition.name, new Family(definition))
      }
    }
  }

  update(facts: Facts): void {
    for (const { name, read } of catalog) {
      const figure = read?.(facts)
      if (typeof figure === "number") this.#scalars.get(name)?.set(figure)
      else if (figure !== undefined) this.#families.get(name)?.set(figure)
    }
    this.#updatePeers(facts.status.peers)
  }

  /** Every metric of the catalog that has a figure. */
  snapshot(): ReadonlyArray<MetricPair.MetricPair.Untyped> {
    const pairs = Metric.unsafeSnapshot().filter(({ metricKey }) => names.has(metricKey.name))
    return [...pairs, ...Array.from(this.#peers.values(), (peer) => peer.snapshot()).flat()]
  }

  #updatePeers(peers: ReadonlyArray<Peer>): void {
    const present = new Set(peers.map(({ peer }) => peer))
    for (const peer of this.#peers.keys()) if (!present.has(peer)) this.#peers.delete(peer)
    for (const peer of peers) {
      let figures = this.#peers.get(peer.peer)
      if (figures === undefined) {
        if (this.#peers.size >= MAX_PEERS) continue
        figures = new PeerFigures()
        this.#peers.set(peer.peer, figures)
      }
      figures.update(peer)
    }
  }
}
