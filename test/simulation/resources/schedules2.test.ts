import { describePart } from "./schedules.ts"

describePart(2)
