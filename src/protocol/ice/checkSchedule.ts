/** When connectivity checks are sent and given up (connectivity spec 9.6). Times are milliseconds. */
export interface CheckSchedule {
  readonly initialRto: number
  readonly maxRto: number
  /** R: also how many checks of a pair are remembered. */
  readonly maxRetransmits: number
}

export const checkSchedules = {
  clientDefault: { initialRto: 250, maxRto: 1500, maxRetransmits: 12 },
  clientIdle: { initialRto: 25_000, maxRto: 25_000, maxRetransmits: 4 },
  serverDefault: { initialRto: 250, maxRto: 15_000, maxRetransmits: 45 },
  serverIdle: { initialRto: 25_000, maxRto: 25_000, maxRetransmits: 40 }
} as const satisfies { readonly [name: string]: CheckSchedule }

/** How long to wait after the `n`-th check. */
export const checkDelay = (schedule: CheckSchedule, n: number): number =>
  n === 0
    ? 0
    : Math.min(schedule.initialRto * 2 ** Math.min(n - 1, schedule.maxRetransmits), schedule.maxRto)
