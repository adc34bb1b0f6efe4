import { describePart } from "./schedules.ts"

describePart(1)
