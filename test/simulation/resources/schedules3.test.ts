import { describePart } from "./schedules.ts"

describePart(3)
