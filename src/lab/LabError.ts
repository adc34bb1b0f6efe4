import * as Data from "effect/Data"

/** The lab itself could not do something; the client is not to blame. */
export class LabError extends Data.TaggedError("LabError")<{ readonly what: string; readonly why: string }> {
  override get message(): string {
    return `${this.what}: ${this.why}`
  }
}
