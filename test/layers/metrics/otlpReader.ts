/**
 * Reads an `ExportMetricsServiceRequest` (opentelemetry-proto 1.x, metrics.proto) from protobuf's wire format, as far as a
 * test needs it. What it does not know is an error: nothing may be sent that nobody has looked at.
 */
interface Field {
  readonly number: number
  readonly wire: number
  readonly bytes: Buffer
  readonly integer: bigint
}

const varint = (bytes: Buffer, at: number): readonly [value: bigint, next: number] => {
  let value = 0n
  for (let shift = 0n, i = at; i < bytes.length; i++, shift += 7n) {
    const byte = bytes[i] as number
    value |= BigInt(byte & 0x7f) << shift
    if (byte < 0x80) return [value, i + 1]
  }
  throw new Error("a varint has no end")
}

const fieldsOf = (bytes: Buffer): ReadonlyArray<Field> => {
  const fields: Array<Field> = []
  for (let at = 0; at < bytes.length;) {
    const [tag, start] = varint(bytes, at)
    const number = Number(tag >> 3n)
    const wire = Number(tag & 7n)
    if (wire === 0) {
      const [integer, next] = varint(bytes, start)
      fields.push({ number, wire, bytes: Buffer.alloc(0), integer })
      at = next
    } else if (wire === 1) {
      fields.push({ number, wire, bytes: bytes.subarray(start, start + 8), integer: bytes.readBigUInt64LE(start) })
      at = start + 8
    } else if (wire === 2) {
      const [length, begin] = varint(bytes, start)
      const end = begin + Number(length)
      if (end > bytes.length) throw new Error("a field is longer than its message")
      fields.push({ number, wire, bytes: bytes.subarray(begin, end), integer: 0n })
      at = end
    } else {
      throw new Error(`wire type ${wire}`)
    }
  }
  return fields
}

const only = (bytes: Buffer, known: ReadonlyArray<number>): ReadonlyArray<Field> => {
  const fields = fieldsOf(bytes)
  for (const { number } of fields) if (!known.includes(number)) throw new Error(`unknown field ${number}`)
  return fields
}
const child = (fields: ReadonlyArray<Field>, number: number): Buffer =>
  fields.find((field) => field.number === number)?.bytes ?? Buffer.alloc(0)
const text = (fields: ReadonlyArray<Field>, number: number): string => child(fields, number).toString("utf8")
const all = (fields: ReadonlyArray<Field>, number: number): ReadonlyArray<Field> =>
  fields.filter((field) => field.number === number)

export interface Point {
  readonly attributes: Readonly<Record<string, string>>
  readonly value: number
}
export interface ExportedMetric {
  readonly name: string
  readonly description: string
  readonly unit: string
  readonly kind: "gauge" | "sum" | "histogram"
  readonly isCumulative: boolean
  readonly isMonotonic: boolean
  readonly points: ReadonlyArray<Point>
}
export interface Exported {
  readonly resource: Readonly<Record<string, string>>
  readonly metrics: ReadonlyArray<ExportedMetric>
}

const attributesOf = (fields: ReadonlyArray<Field>, number: number): Record<string, string> =>
  Object.fromEntries(
    all(fields, number).map(({ bytes }) => {
      const pair = only(bytes, [1, 2])
      return [text(pair, 1), text(only(child(pair, 2), [1]), 1)]
    })
  )

const checkTimes = (fields: ReadonlyArray<Field>): void => {
  const [start = 0n, now = 0n] = [2, 3].map((number) => all(fields, number)[0]?.integer)
  const year = 31_536_000_000_000_000n
  if (!(start > 50n * year && now >= start && now < 200n * year)) throw new Error(`times ${start} and ${now}`)
}

const numberPoint = ({ bytes }: Field): Point => {
  const fields = only(bytes, [2, 3, 4, 7])
  checkTimes(fields)
  return { attributes: attributesOf(fields, 7), value: child(fields, 4).readDoubleLE() }
}

const histogramPoint = ({ bytes }: Field): Point => {
  const fields = only(bytes, [2, 3, 4, 5, 6, 7, 9])
  checkTimes(fields)
  const count = all(fields, 4)[0]?.integer ?? 0n
  const packed = (number: number): ReadonlyArray<Buffer> =>
    all(fields, number).flatMap(({ bytes }) =>
      Array.from({ length: bytes.length / 8 }, (_, i) => bytes.subarray(8 * i, 8 * i + 8))
    )
  const counts = packed(6).map((each) => each.readBigUInt64LE())
  if (counts.length !== packed(7).length + 1) throw new Error("bounds do not fit the buckets")
  if (counts.reduce((sum, each) => sum + each, 0n) !== count) throw new Error("the buckets are not the count")
  return { attributes: attributesOf(fields, 9), value: Number(count) }
}

const metricOf = ({ bytes }: Field): ExportedMetric => {
  const fields = only(bytes, [1, 2, 3, 5, 7, 9])
  const kind = ({ 5: "gauge", 7: "sum", 9: "histogram" } as const)[
    fields.find(({ number }) => number >= 5)?.number as 5 | 7 | 9
  ]
  const data = only(child(fields, { gauge: 5, sum: 7, histogram: 9 }[kind]), [1, 2, 3])
  return {
    name: text(fields, 1),
    description: text(fields, 2),
    unit: text(fields, 3),
    kind,
    isCumulative: all(data, 2)[0]?.integer === 2n,
    isMonotonic: all(data, 3)[0]?.integer === 1n,
    points: all(data, 1).map(kind === "histogram" ? histogramPoint : numberPoint)
  }
}

export const decodeExport = (bytes: Buffer): Exported => {
  const resourceMetrics = only(child(only(bytes, [1]), 1), [1, 2])
  const scope = only(child(resourceMetrics, 2), [1, 2])
  return {
    resource: attributesOf(only(child(resourceMetrics, 1), [1, 2]), 1),
    metrics: all(scope, 2).map(metricOf)
  }
}
