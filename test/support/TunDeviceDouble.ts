/** A tunnel device without a kernel: the test reads what was written to it, and sends packets into it. */
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { CIPHER_HEADROOM, CIPHER_TAILROOM } from "../../src/protocol/crypto.ts"
import {
  TunDevice,
  type TunFailed,
  type TunHandlers,
  type TunInterfaceConfig,
  type TunOptions
} from "../../src/services/TunDevice.ts"

export interface TunDeviceDouble {
  /** Packets that were flushed and not yet taken. */
  readonly written: Array<Uint8Array>
  /** Hands a batch to whoever has started the device; returns false if nobody has. */
  readonly deliver: (...packets: ReadonlyArray<Uint8Array>) => boolean
  /** Every `configure` that succeeded, oldest first. */
  readonly configured: Array<TunInterfaceConfig>
  /** The options of every `open`, oldest first. */
  readonly opened: Array<TunOptions>
  readonly isOpen: () => boolean
  /** Whether the device is to be read. `deliver` delivers all the same, as the rest of a batch would. */
  reading: boolean
  /** What `configure` says. */
  works: { readonly ipv4: boolean; readonly ipv6: boolean }
  /** Fails the next `open`s and `configure`s. */
  openFailure: TunFailed | undefined
  configureFailure: TunFailed | undefined
  /** Somebody deletes the interface. */
  readonly remove: (failure: TunFailed) => void
  readonly layer: Layer.Layer<TunDevice>
}

export const makeTunDeviceDouble = (): TunDeviceDouble => {
  let handlers: TunHandlers | undefined
  let isOpen = false
  const closed = Deferred.unsafeMake<never, TunFailed>(Effect.runSync(Effect.fiberId))
  const open = (options: TunOptions) =>
    Effect.acquireRelease(
      Effect.suspend(() => {
        if (double.openFailure !== undefined) return Effect.fail(double.openFailure)
        isOpen = true
        double.opened.push(options)
        return Effect.void
      }),
      () =>
        Effect.sync(() => {
          isOpen = false
          handlers = undefined
        })
    ).pipe(Effect.map(() => {
      const queued: Array<Uint8Array> = []
      return {
        name: options.name,
        interfaceIndex: 7,
        instance: 0,
        start: (starting: TunHandlers) => Effect.sync(() => void (handlers = starting)),
        // Copied in `flush` only, as the real one does: a caller that overwrites its buffer too early is found out.
        write: (buffer: Uint8Array, offset: number, length: number) =>
          void queued.push(buffer.subarray(offset, offset + length)),
        flush: () => {
          for (const packet of queued.splice(0)) if (isOpen) double.written.push(packet.slice())
        },
        configure: (config: TunInterfaceConfig) =>
          Effect.suspend(() => {
            if (double.configureFailure !== undefined) return Effect.fail(double.configureFailure)
            double.configured.push(config)
            return Effect.succeed(double.works)
          }),
        setReading: (wanted: boolean) => void (double.reading = wanted),
        stats: () => ({ read: 0, readBytes: 0, written: 0, writtenBytes: 0, dropped: {}, offloads: "none" }),
        closed: Deferred.await(closed)
      }
    }))

  const double: TunDeviceDouble = {
    written: [],
    deliver: (...packets) => {
      if (handlers === undefined) return false
      const buffers = packets.map((packet) => {
        const buffer = new Uint8Array(CIPHER_HEADROOM + packet.length + CIPHER_TAILROOM)
        buffer.set(packet, CIPHER_HEADROOM)
        handlers?.onPacket(buffer, CIPHER_HEADROOM, packet.length)
        return buffer
      })
      handlers.onBatchEnd()
      for (const buffer of buffers) buffer.fill(0xee) // used again by the real one
      return true
    },
    configured: [],
    opened: [],
    isOpen: () => isOpen,
    reading: true,
    works: { ipv4: true, ipv6: true },
    openFailure: undefined,
    configureFailure: undefined,
    remove: (failure) => void Deferred.unsafeDone(closed, Effect.fail(failure)),
    layer: Layer.succeed(TunDevice, TunDevice.of({ open }))
  }
  return double
}
