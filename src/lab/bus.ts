/** A real D-Bus system bus on the client's host: nothing of it is seen outside that host. */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { LabError } from "./LabError.ts"
import type { Daemon } from "./processes.ts"
import { requirePrograms } from "./requirePrograms.ts"
import { eventually } from "./scenario.ts"
import type { Topology } from "./topology.ts"

/** Everybody on the host may do everything. */
const CONFIGURATION = `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>unix:path=/run/dbus/system_bus_socket</listen><auth>EXTERNAL</auth>
<policy context="default"><allow user="*"/><allow own="*"/><allow send_type="method_call"/><allow send_type="signal"/>
<allow send_requested_reply="true" send_type="method_return"/><allow send_requested_reply="true" send_type="error"/>
<allow receive_type="method_call"/><allow receive_type="method_return"/><allow receive_type="error"/>
<allow receive_type="signal"/><allow send_destination="*"/></policy></busconfig>`

export interface Bus {
  /** Kills it, and starts another one in its place: whoever was on it has to connect again. */
  readonly restart: Effect.Effect<void, LabError, Scope.Scope>
}

export const start = (topology: Topology): Effect.Effect<Bus, LabError, Scope.Scope> =>
  Effect.gen(function*() {
    yield* requirePrograms(["dbus-daemon"], "dbus")
    const prepare = "mkdir -p /run/dbus && printf '%s' \"$1\" > /etc/dbus-lab.conf"
    yield* topology.must("client", ["sh", "-ec", prepare, "sh", CONFIGURATION])
    let running: Daemon | undefined
    const startDaemon = Effect.gen(function*() {
      running = yield* topology.daemon("client", "dbus", [
        ...["dbus-daemon", "--config-file=/etc/dbus-lab.conf", "--nofork", "--nopidfile"]
      ])
      const isThere = yield* eventually(
        Effect.map(topology.run("client", ["test", "-S", "/run/dbus/system_bus_socket"]), ({ code }) => code === 0),
        5000
      )
      if (isThere === undefined) return yield* new LabError({ what: "dbus-daemon", why: "made no socket within 5 s" })
    })
    yield* startDaemon
    return {
      restart: Effect.gen(function*() {
        running?.signal("SIGKILL")
        yield* running?.exit ?? Effect.void
        yield* topology.must("client", ["rm", "-f", "/run/dbus/system_bus_socket"])
        yield* startDaemon
      })
    }
  })
