import { describePart } from "./schedules.ts"

describePart(4)
