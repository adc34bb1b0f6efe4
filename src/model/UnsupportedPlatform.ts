import * as Data from "effect/Data"

/** A service that has no implementation for this operating system. */
export class UnsupportedPlatform extends Data.TaggedError("UnsupportedPlatform")<{
  readonly platform: string
  /** What is missing, such as `peer sockets`. */
  readonly what: string
}> {
  override get message(): string {
    return `${this.what}: not supported on ${this.platform}`
  }
}
