/** What the manifest holds of threads and process state, for JSON. */

type SnakeCase<Name extends string> = Name extends `${infer Head}${infer Tail}`
  ? Tail extends Uncapitalize<Tail>
    ? `${Uncapitalize<Head>}${SnakeCase<Tail>}`
    : `${Uncapitalize<Head>}_${SnakeCase<Tail>}`
  : Name;

/** The same with names in snake case, and bytes as hexadecimal digits. */
export type Reported<Value> = Value extends Uint8Array
  ? string
  : Value extends readonly (infer Item)[]
    ? Reported<Item>[]
    : Value extends object
      ? { [Name in keyof Value & string as SnakeCase<Name>]: Reported<Value[Name]> }
      : Value;

export function reported<Value>(value: Value): Reported<Value> {
  return convert(value) as Reported<Value>;
}

function convert(value: unknown): unknown {
  if (value instanceof Uint8Array) return Buffer.from(value).toString('hex');
  if (Array.isArray(value)) return value.map(convert);
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(
    Object.entries(value).map(([name, item]) => [
      name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`),
      convert(item),
    ]),
  );
}
