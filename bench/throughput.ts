/** TCP on the direct path. */
import type { BenchOptions } from "./report.ts"
import { measureTcp, tcpSettings } from "./tcp.ts"

export const settings = tcpSettings("direct")
export const run = (options: BenchOptions) => measureTcp("direct", 5, options)
