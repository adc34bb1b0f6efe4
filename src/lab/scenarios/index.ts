import type { Scenario } from "../scenario.ts"
import { direct, directIpv6, relayed } from "./direct.ts"

export const scenarios: ReadonlyArray<Scenario> = [direct, directIpv6, relayed]
