import type { Scenario } from "../scenario.ts"
import { direct } from "./direct.ts"

export const scenarios: ReadonlyArray<Scenario> = [direct]
