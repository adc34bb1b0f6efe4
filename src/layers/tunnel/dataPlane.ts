/**
 * Joins a packet core with the TUN device and the peer sockets: plain calls, no Effect and no allocation per packet
 * (design section 2). The client's and the emulated gateway's cores are driven by the same code.
 */
import { CIPHER_HEADROOM } from "../../protocol/crypto.ts"
import type { InnerPacket, Transmit } from "../../protocol/node/types.ts"
import type { SocketAddress } from "../../protocol/wire/address.ts"
import type { DatagramHandlers, PeerSockets } from "../../services/PeerSocket.ts"
import type { Tun, TunHandlers } from "../../services/TunDevice.ts"

/** What a tunnel core offers to its driver; `now` is monotonic milliseconds. */
export interface PacketCore {
  /** Whether the packet, sealed in place, is to be sent now: as `transmit` says. */
  tunInput(buffer: Uint8Array, offset: number, length: number, now: number): boolean
  /** Whether the datagram held a packet for the TUN device: `packet`, in `output`. */
  networkInput(
    local: SocketAddress,
    from: SocketAddress,
    ecn: number,
    input: Uint8Array,
    offset: number,
    length: number,
    output: Uint8Array,
    outputOffset: number,
    now: number
  ): boolean
  readonly transmit: Transmit
  readonly packet: InnerPacket
  handleTimeout(now: number): void
  pollTransmit(): Transmit | undefined
  /** A packet of our own for the TUN device, valid until the next call. */
  pollPacket(): Uint8Array | undefined
  pollTimeout(): number | undefined
}

/** Room for one opened packet with what the cipher needs around it; 2 KiB keeps slots aligned. */
const SLOT_BYTES = 2048
const SLOTS = 256

export interface DataPlaneOptions {
  readonly core: PacketCore
  readonly tun: Tun
  /** Monotonic milliseconds. */
  readonly now: () => number
  /** After every batch and timer: poll the core's events here. */
  readonly onSettled: () => void
  /** A bug; the session cannot go on. Called at most once. */
  readonly onDefect: (cause: unknown) => void
}

export interface DataPlane {
  readonly tunHandlers: TunHandlers
  readonly socketHandlers: DatagramHandlers
  /** The sockets to send on; `undefined` while nothing may be sent. */
  readonly setSockets: (sockets: PeerSockets | undefined) => void
  /** Sends what the core wants sent, then arms the timer: call it after every call into the core from outside. */
  readonly settle: () => void
  /** Disarms the timer; nothing happens afterwards. */
  readonly stop: () => void
}

/** Longest sleep without looking at the core again, in milliseconds. */
const MAX_SLEEP = 10_000

/**
 * How long a full socket keeps the device from being read, in milliseconds. What the device holds back is everybody's:
 * other peers, the other IP version, DNS. They wait so long for the next batch, and however long the socket stays full.
 */
const MAX_HOLD = 10

export const makeDataPlane = (options: DataPlaneOptions): DataPlane => {
  const { core, now, onDefect, onSettled, tun } = options
  const slots = new Uint8Array(SLOT_BYTES * SLOTS)
  let usedSlots = 0
  let sockets: PeerSockets | undefined
  let stopped = false
  let timer: NodeJS.Timeout | undefined
  let armedFor = Number.POSITIVE_INFINITY
  /** When the batch at hand began; -1 between batches. The clock is read once for it: a batch takes no time that matters. */
  let batchTime = -1
  /** The IP versions that packets of the device were sent over since the latest flush. */
  let sent4 = false
  let sent6 = false
  let holding = false
  let holdTimer: NodeJS.Timeout | undefined

  const fail = (cause: unknown): void => {
    if (stopped) return
    stop()
    onDefect(cause)
  }
  const stop = (): void => {
    stopped = true
    clearTimeout(timer)
    clearTimeout(holdTimer)
  }
  const arm = (): void => {
    const deadline = core.pollTimeout()
    const at = Math.min(deadline ?? Number.POSITIVE_INFINITY, now() + MAX_SLEEP)
    // An earlier timer only looks again: arming anew for every batch would cost more.
    if (timer !== undefined && armedFor <= at) return
    clearTimeout(timer)
    armedFor = at
    timer = setTimeout(onTimer, Math.max(0, Math.ceil(at - now())))
  }
  const onTimer = (): void => {
    timer = undefined
    armedFor = Number.POSITIVE_INFINITY
    settle()
  }
  const flush = (): void => {
    tun.flush()
    usedSlots = 0
    sockets?.flush()
    if (sent4 || sent6) hold()
  }
  /**
   * Leaves packets in the device while the socket is full that they go to: there they slow down who sends them, which is
   * better than to drop them. What other sockets still take is not held up for long.
   */
  const hold = (): void => {
    const full = sent4 && sockets?.blocked(4) === true || sent6 && sockets?.blocked(6) === true
    sent4 = false
    sent6 = false
    if (!full || holding) return
    holding = true
    tun.setReading(false)
    if (holdTimer === undefined) holdTimer = setTimeout(release, MAX_HOLD)
    else holdTimer.refresh()
  }
  const release = (): void => {
    if (!holding || stopped) return
    holding = false
    tun.setReading(true)
  }
  const settle = (): void => {
    batchTime = -1
    if (stopped) return
    try {
      flush()
      const time = now()
      const deadline = core.pollTimeout()
      if (deadline !== undefined && deadline <= time) core.handleTimeout(time)
      for (let transmit = core.pollTransmit(); transmit !== undefined; transmit = core.pollTransmit()) {
        if (sockets === undefined) continue
        sockets.send(
          transmit.source,
          transmit.destination,
          transmit.ecn,
          transmit.buffer,
          transmit.offset,
          transmit.length
        )
        // The bytes are the core's and change with the next call.
        sockets.flush()
      }
      for (let packet = core.pollPacket(); packet !== undefined; packet = core.pollPacket()) {
        tun.write(packet, 0, packet.length)
        tun.flush()
      }
      onSettled()
      arm()
    } catch (cause) {
      fail(cause)
    }
  }

  return {
    tunHandlers: {
      onPacket: (buffer, offset, length) => {
        if (stopped) return
        try {
          if (batchTime < 0) batchTime = now()
          if (core.tunInput(buffer, offset, length, batchTime) && sockets !== undefined) {
            const { transmit } = core
            if (transmit.destination.family === 4) sent4 = true
            else sent6 = true
            sockets.send(
              transmit.source,
              transmit.destination,
              transmit.ecn,
              transmit.buffer,
              transmit.offset,
              transmit.length
            )
          }
        } catch (cause) {
          fail(cause)
        }
      },
      onBatchEnd: settle
    },
    socketHandlers: {
      onDatagram: (local, from, ecn, buffer, offset, length) => {
        if (stopped) return
        try {
          if (usedSlots === SLOTS) {
            tun.flush()
            usedSlots = 0
          }
          const output = usedSlots * SLOT_BYTES + CIPHER_HEADROOM
          if (batchTime < 0) batchTime = now()
          if (core.networkInput(local, from, ecn, buffer, offset, length, slots, output, batchTime)) {
            usedSlots += 1
            const { packet } = core
            tun.write(packet.buffer, packet.offset, packet.length)
          }
        } catch (cause) {
          fail(cause)
        }
      },
      onBatchEnd: settle,
      onUnblocked: release
    },
    setSockets: (next) => {
      sockets = next
      // What was full has gone, and says nothing any more.
      release()
    },
    settle,
    stop
  }
}
