/** TCP through a relay. */
import type { BenchOptions } from "./report.ts"
import { measureTcp, tcpSettings } from "./tcp.ts"

export const settings = tcpSettings("relayed")
export const run = (options: BenchOptions) => measureTcp("relayed", 2, options)
