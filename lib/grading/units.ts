/** Units that answers are written in: which name is which quantity, and how large it is. */

/** Values of one quantity are comparable; `factor` turns a value into the quantity's base unit. */
export interface Unit {
  readonly quantity: string;
  readonly factor: number;
}

/** Base unit first. Temperatures are only equal to themselves: their zeros differ. */
const table: Readonly<Record<string, Readonly<Record<string, number>>>> = {
  length: {
    'm metre metres meter meters': 1,
    'mm millimetre millimetres millimeter millimeters': 1e-3,
    'cm centimetre centimetres centimeter centimeters': 1e-2,
    'dm decimetre decimetres decimeter decimeters': 0.1,
    'km kilometre kilometres kilometer kilometers': 1e3,
    'μm µm um micrometre micrometres micrometer micrometers micron microns': 1e-6,
    'nm nanometre nanometres nanometer nanometers': 1e-9,
    'inch inches': 0.0254,
    'ft foot feet': 0.3048,
    'yd yard yards': 0.9144,
    'mi mile miles': 1609.344,
  },
  mass: {
    'kg kilogram kilograms': 1,
    'g gram grams': 1e-3,
    'mg milligram milligrams': 1e-6,
    'tonne tonnes': 1e3,
    'lb lbs pound pounds': 0.45359237,
    'oz ounce ounces': 0.028349523125,
  },
  time: {
    's sec secs second seconds': 1,
    'ms millisecond milliseconds': 1e-3,
    'min mins minute minutes': 60,
    'h hr hrs hour hours': 3600,
    'day days': 86400,
    'week weeks': 604800,
  },
  angle: { '° deg degree degrees': 1, 'rad radian radians': 180 / Math.PI },
  area: {
    'm^2 m² sqm': 1,
    'cm^2 cm²': 1e-4,
    'mm^2 mm²': 1e-6,
    'km^2 km²': 1e6,
    'ft^2 ft²': 0.3048 ** 2,
    'in^2 in²': 0.0254 ** 2,
  },
  volume: {
    'm^3 m³': 1,
    'cm^3 cm³': 1e-6,
    'L l litre litres liter liters': 1e-3,
    'mL ml millilitre millilitres milliliter milliliters': 1e-6,
  },
  speed: { 'm/s': 1, 'km/h kmh': 1 / 3.6, mph: 0.44704, 'cm/s': 1e-2, 'km/s': 1e3 },
  force: { 'N newton newtons': 1, kN: 1e3 },
  energy: { 'J joule joules': 1, kJ: 1e3 },
  power: { 'W watt watts': 1, kW: 1e3 },
  voltage: { 'V volt volts': 1, mV: 1e-3 },
  resistance: { 'Ω ohm ohms': 1, kΩ: 1e3 },
  money: { 'dollar dollars USD': 1, 'cent cents': 0.01 },
  celsius: { '°C': 1 },
  fahrenheit: { '°F': 1 },
};

const units = new Map<string, Unit>();
for (const [quantity, rows] of Object.entries(table)) {
  for (const [names, factor] of Object.entries(rows)) {
    for (const name of names.split(' ')) units.set(name, { quantity, factor });
  }
}

/** `square centimetres`, `sq. cm`, `cubic metres` are the squares and cubes of a length. */
const spokenPower = /^(square|sq\.?|cubic)\s+(\S+)/i;

/** The unit at the start of a text that follows a number, such as "cm³ of water"; null when it starts with none. */
export function leadingUnit(text: string): Unit | null {
  const after = text.trimStart();
  const power = spokenPower.exec(after);
  if (power !== null) {
    const length = find(power[2]!);
    const exponent = /^c/i.test(power[1]!) ? 3 : 2;
    if (length?.quantity !== 'length') return null;
    return { quantity: exponent === 3 ? 'volume' : 'area', factor: length.factor ** exponent };
  }
  const word = /^(?:°\s?[CF](?![\p{L}])|°|[\p{L}µμΩ]+(?:\/[\p{L}]+)?(?:\^\{?[23]\}?|[²³])?)/u.exec(after);
  return word === null ? null : find(word[0].replace(/[{}]/g, '').replace('° ', '°'));
}

/** A unit by its written name; null for a name that is not in the table. */
export function unitNamed(name: string): Unit | null {
  return leadingUnit(name);
}

/** Symbols are read as written (a capital M is no metre); words may be capitalised. */
function find(name: string): Unit | null {
  const bare = name.replace(/[.,;:)]+$/, '');
  return units.get(bare) ?? (bare.length > 2 ? units.get(bare.toLowerCase()) : undefined) ?? null;
}
