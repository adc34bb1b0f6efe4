/** What systemd tells a service in its environment (sd_notify(3), sd_watchdog_enabled(3)). */
import * as Duration from "effect/Duration"

export interface NotifyVariables {
  /** A path, or an abstract name with `@` in front. */
  readonly socket: string
  /** Within this time it wants a sign of life, if it watches. */
  readonly watchdog: Duration.Duration | undefined
}

/** `undefined` if nobody wants to be told. Takes them out of `env`: they are not meant for children. */
export const takeNotifyVariables = (env: NodeJS.ProcessEnv, pid: number): NotifyVariables | undefined => {
  const { NOTIFY_SOCKET: socket, WATCHDOG_PID: watched, WATCHDOG_USEC: micros } = env
  for (const name of ["NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"]) delete env[name]
  if (socket === undefined || socket === "") return undefined
  const isOurs = watched === undefined || watched === String(pid)
  const watchdog = isOurs && /^[1-9]\d{0,14}$/.test(micros ?? "")
    ? Duration.millis(Number(micros) / 1000)
    : undefined
  return { socket, watchdog }
}
