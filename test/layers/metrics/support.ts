import type { Facts } from "../../../src/layers/metrics/catalog.ts"
import type { TunnelStatus } from "../../../src/services/Tunnel.ts"
import { tunnelStatus } from "../../support/TunnelDouble.ts"

export const facts = (changes: Partial<TunnelStatus> = {}): Facts => ({
  status: tunnelStatus(changes),
  lag: { p50: 0.001, p99: 0.01, max: 0.25 },
  process: { version: "1.2.3", startSeconds: 1_700_000_000, cpuSeconds: 12.5, residentBytes: 1e8 }
})
