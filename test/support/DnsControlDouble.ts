/** DNS control of a system that the test looks at. */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { DnsControl, type DnsControlFailed, type DnsTarget } from "../../src/services/DnsControl.ts"

export interface DnsControlDouble {
  /** What was asked for, oldest first. */
  readonly calls: Array<DnsTarget | "prepare" | "revert" | "flush">
  /** Called with each of them. */
  onCall: (what: DnsControlDouble["calls"][number]) => void
  /** Fails the next `set`s. */
  setFailure: DnsControlFailed | undefined
  readonly layer: Layer.Layer<DnsControl>
}

export const makeDnsControlDouble = (): DnsControlDouble => {
  const call = (what: DnsControlDouble["calls"][number]) =>
    Effect.sync(() => {
      double.calls.push(what)
      double.onCall(what)
    })
  const double: DnsControlDouble = {
    calls: [],
    onCall: () => undefined,
    setFailure: undefined,
    layer: Layer.sync(DnsControl, () =>
      DnsControl.of({
        method: "etc-resolv-conf",
        prepare: call("prepare"),
        set: (target) => Effect.zipRight(call(target), Effect.suspend(() => double.setFailure ?? Effect.void)),
        revert: call("revert"),
        flush: call("flush")
      }))
  }
  return double
}
