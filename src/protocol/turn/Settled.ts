import type { Request } from "./Requests.ts"

/** How long the network may keep a copy of a request. Milliseconds. */
export const REPEAT_WINDOW = 5000

interface Entry {
  readonly request: Request
  readonly until: number
  /** What the relay said: the addresses that it holds now. */
  readonly outcome: string
}

/**
 * The latest answered requests that made or unmade an allocation. A relay keeps no transactions: it executes a request
 * again when the network repeats it, and only a second answer tells that its state has changed behind our back.
 */
export class Settled {
  #created: Entry | undefined
  #deleted: Entry | undefined

  clear(): void {
    this.#created = undefined
    this.#deleted = undefined
  }

  created(request: Request, outcome: string, now: number): void {
    this.#created = { request, until: now + REPEAT_WINDOW, outcome }
  }

  deleted(request: Request, now: number): void {
    this.#deleted = { request, until: now + REPEAT_WINDOW, outcome: "" }
  }

  /** Whether a copy of the latest deletion may still be on its way. */
  mayBeDeletedAgain(now: number): boolean {
    return now < (this.#deleted?.until ?? now)
  }

  /** The request that was answered under this transaction id, and lately. */
  find(key: string, now: number): Request | undefined {
    return [this.#created, this.#deleted].find((entry) => entry?.request.keys.includes(key) && now < entry.until)
      ?.request
  }

  /**
   * Whether another success with this outcome says that `request` was executed again, as far as one can tell; counts once.
   * A second allocation has other addresses. A second deletion, which has deleted what was allocated since, looks like a
   * copy of the first one's answer.
   */
  wasRepeated(request: Request, outcome: string): boolean {
    if (this.#deleted?.request === request) {
      this.#deleted = undefined
      return true
    }
    if (this.#created?.request !== request || this.#created.outcome === outcome) return false
    this.#created = undefined
    return true
  }
}
