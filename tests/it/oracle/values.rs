//! Values, rows and how both are made up: few different keys, and every awkward value.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int32Array, Int64Array, RecordBatch,
    StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, SchemaRef, TimeUnit};

use super::dice::Dice;

/// The last microsecond a timestamp may have.
pub(crate) const LAST_US: i64 = 253_402_300_799_999_999;

/// The types of columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ty {
    Big,
    Int,
    Double,
    Text,
    Bool,
    Time,
    Date,
    Decimal,
}

pub(crate) const TYPES: [Ty; 8] = [
    Ty::Big,
    Ty::Int,
    Ty::Double,
    Ty::Text,
    Ty::Bool,
    Ty::Time,
    Ty::Date,
    Ty::Decimal,
];

impl Ty {
    /// The type as a source file declares it.
    pub(crate) fn sql(self) -> &'static str {
        match self {
            Ty::Big => "bigint",
            Ty::Int => "integer",
            Ty::Double => "double",
            Ty::Text => "text",
            Ty::Bool => "boolean",
            Ty::Time => "timestamp",
            Ty::Date => "date",
            Ty::Decimal => "decimal(10, 2)",
        }
    }

    /// Returns the type of a column of a view; none where the generator has no expressions over it.
    pub(crate) fn of(data_type: &DataType) -> Option<Ty> {
        Some(match data_type {
            DataType::Int64 => Ty::Big,
            DataType::Int32 => Ty::Int,
            DataType::Float64 => Ty::Double,
            DataType::Utf8 => Ty::Text,
            DataType::Boolean => Ty::Bool,
            DataType::Timestamp(TimeUnit::Microsecond, Some(_)) => Ty::Time,
            DataType::Date32 => Ty::Date,
            DataType::Decimal128(..) => Ty::Decimal,
            _ => return None,
        })
    }
}

/// One value. Decimals are in hundredths, times in microseconds, dates in days.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    Null,
    Big(i64),
    Int(i32),
    Double(f64),
    Text(String),
    Bool(bool),
    Time(i64),
    Date(i32),
    Decimal(i128),
}

pub(crate) type Row = Vec<Value>;

impl Value {
    pub(crate) fn time(&self) -> Option<i64> {
        match self {
            Value::Time(us) => Some(*us),
            _ => None,
        }
    }

    /// The value as a key: `-0.0` is `0.0` there.
    pub(crate) fn key(&self) -> String {
        match self {
            Value::Double(value) => format!("{:?}", Value::Double(value + 0.0)),
            other => other.bits(),
        }
    }

    /// The value with every bit, but for one NaN.
    pub(crate) fn bits(&self) -> String {
        format!("{self:?}")
    }
}

/// How the values of a column are spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spread {
    /// A handful of values, so that groups and joins meet.
    Few,
    /// All that can be.
    Wide,
    /// Times about the case's own time.
    Near,
}

/// What kinds of values a case has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Taste {
    /// Neither NaN nor signed zeros nor infinities nor extremes: plain DataFusion agrees on the rest.
    pub(crate) tame: bool,
    /// How many keys there are.
    pub(crate) keys: i64,
    /// The case's own time, near which times lie.
    pub(crate) now_us: i64,
}

const WORDS: [&str; 14] = [
    "", "a", "b", "ab", "A", "12", "-3", "x1", "é", "Zürich", "7", "null", "a,b\"c", "0.5",
];

pub(crate) fn value(dice: &mut Dice, ty: Ty, spread: Spread, taste: Taste) -> Value {
    let few = spread == Spread::Few;
    let wild = !taste.tame && !few && dice.chance(12);
    match ty {
        Ty::Big if wild => Value::Big(*dice.pick(&[i64::MIN, i64::MAX, -1, 1 << 53, (1 << 53) + 1, i64::MIN + 1])),
        Ty::Big if few => Value::Big(dice.between(0, taste.keys - 1)),
        Ty::Big => Value::Big(dice.between(-20, 20)),
        Ty::Int if wild => Value::Int(*dice.pick(&[i32::MIN, i32::MAX, -1])),
        Ty::Int if few => Value::Int(dice.between(0, taste.keys - 1) as i32),
        Ty::Int => Value::Int(dice.between(-20, 20) as i32),
        Ty::Double if wild || (few && !taste.tame && dice.chance(30)) => Value::Double(*dice.pick(&[
            f64::NAN,
            0.0,
            -0.0,
            f64::INFINITY,
            f64::NEG_INFINITY,
            1e308,
            -1e308,
            5e-324,
            1e-300,
            9_007_199_254_740_993.0,
        ])),
        Ty::Double if few => Value::Double(dice.between(0, taste.keys - 1) as f64),
        Ty::Double if dice.chance(50) => Value::Double(dice.between(-4000, 4000) as f64 / 8.0),
        Ty::Double => Value::Double(dice.between(-1_000_000, 1_000_000) as f64 / 997.0),
        Ty::Text if few => Value::Text(WORDS[dice.below((taste.keys as usize).min(WORDS.len()))].to_owned()),
        Ty::Text if wild => Value::Text("long ".repeat(dice.below(12))),
        Ty::Text => Value::Text((*dice.pick(&WORDS)).to_owned()),
        Ty::Bool => Value::Bool(dice.chance(50)),
        Ty::Time if wild => Value::Time(*dice.pick(&[0, 1, LAST_US, LAST_US - 1, 951_782_400_000_000])),
        Ty::Time if few => {
            Value::Time(taste.now_us / 86_400_000_000 * 86_400_000_000 + dice.between(0, taste.keys) * 3_600_000_000)
        }
        Ty::Time => Value::Time(taste.now_us + dice.between(-7_200, 7_200) * 1_000_000 + dice.between(0, 3) * 333),
        Ty::Date if wild => Value::Date(*dice.pick(&[0, 2_932_896, 11_016])),
        Ty::Date => Value::Date((taste.now_us / 86_400_000_000) as i32 + dice.between(0, taste.keys) as i32),
        Ty::Decimal if wild => Value::Decimal(*dice.pick(&[9_999_999_999, -9_999_999_999, 0, 1])),
        Ty::Decimal if few => Value::Decimal(i128::from(dice.between(0, taste.keys - 1)) * 100),
        Ty::Decimal => Value::Decimal(i128::from(dice.between(-5_000, 5_000))),
    }
}

/// Builds a batch of a schema from rows; a value of another type is a mistake of the test.
pub(crate) fn batch(schema: &SchemaRef, rows: &[Row]) -> RecordBatch {
    let columns = (0..schema.fields().len())
        .map(|at| column(schema.field(at).data_type(), rows, at))
        .collect();
    RecordBatch::try_new(Arc::clone(schema), columns).expect("rows were made for this schema")
}

fn column(data_type: &DataType, rows: &[Row], at: usize) -> ArrayRef {
    macro_rules! values {
        ($kind:ident) => {
            rows.iter().map(|row| match &row[at] {
                Value::$kind(value) => Some(value.clone()),
                Value::Null => None,
                other => panic!("{other:?} in a column of {data_type}"),
            })
        };
    }
    match data_type {
        DataType::Int64 => Arc::new(values!(Big).collect::<Int64Array>()),
        DataType::Int32 => Arc::new(values!(Int).collect::<Int32Array>()),
        DataType::Float64 => Arc::new(values!(Double).collect::<Float64Array>()),
        DataType::Utf8 => Arc::new(values!(Text).collect::<StringArray>()),
        DataType::Boolean => Arc::new(values!(Bool).collect::<BooleanArray>()),
        DataType::Date32 => Arc::new(values!(Date).collect::<Date32Array>()),
        DataType::Timestamp(TimeUnit::Microsecond, zone) => Arc::new(
            values!(Time)
                .collect::<TimestampMicrosecondArray>()
                .with_timezone_opt(zone.clone()),
        ),
        DataType::Decimal128(precision, scale) => Arc::new(
            values!(Decimal)
                .collect::<Decimal128Array>()
                .with_precision_and_scale(*precision, *scale)
                .expect("a declared type"),
        ),
        other => panic!("no values of {other}"),
    }
}
