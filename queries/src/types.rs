//! Reads the column types of sources: SQL words in, arrow types out.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, TimeUnit};
use datafusion::sql::sqlparser::ast::{ArrayElemTypeDef, DataType as SqlType, ExactNumberInfo, TimezoneInfo};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::Parser;

use crate::problem::Problem;

/// A column's type as an operator declares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnType {
    /// The arrow type.
    pub data_type: DataType,
    /// Whether NULL may stand in it.
    pub nullable: bool,
}

/// The words a hint lists.
const KNOWN: &str = "Use text, boolean, smallint, integer, bigint, real, double, decimal(p, s), timestamp, date or \
                     varbinary, with [] after it for a list, and \"not null\" after it where NULL may not stand.";

/// Reads a type such as `text not null` or `decimal(10, 2)`.
pub(crate) fn column_type(sql: &str, time_zone: &Arc<str>) -> Result<ColumnType, Problem> {
    let unknown = || Problem::new(format!("unknown column type \"{sql}\"")).hint(KNOWN);
    let dialect = GenericDialect {};
    let mut parser = Parser::new(&dialect).try_with_sql(sql).map_err(|_| unknown())?;
    let parsed = parser.parse_data_type().map_err(|_| unknown())?;
    let nullable = if parser.parse_keywords(&[Keyword::NOT, Keyword::NULL]) {
        false
    } else {
        let _ = parser.parse_keyword(Keyword::NULL);
        true
    };
    let rest = parser.peek_token();
    if rest.token != datafusion::sql::sqlparser::tokenizer::Token::EOF {
        return Err(Problem::new(format!("could not read \"{rest}\" in column type \"{sql}\"")).hint(KNOWN));
    }
    let data_type = data_type(&parsed, time_zone).ok_or_else(|| match &parsed {
        SqlType::Numeric(_) | SqlType::Decimal(_) | SqlType::Dec(_) => {
            Problem::new(format!("column type \"{sql}\" is out of range"))
                .hint("A decimal has a precision of 1 to 38 digits and a scale of 0 up to that.")
        }
        SqlType::Timestamp(..) | SqlType::TimestampNtz(_) | SqlType::Datetime(_) => Problem::new(format!(
            "column type \"{sql}\" is not supported"
        ))
        .hint("Write \"timestamp\": it is kept in microseconds, in UTC, and read in the deployment's time_zone."),
        _ => Problem::new(format!("column type \"{sql}\" is not supported")).hint(KNOWN),
    })?;
    Ok(ColumnType { data_type, nullable })
}

fn data_type(sql: &SqlType, time_zone: &Arc<str>) -> Option<DataType> {
    Some(match sql {
        SqlType::Text
        | SqlType::String(None)
        | SqlType::Varchar(None)
        | SqlType::CharacterVarying(None)
        | SqlType::CharVarying(None) => DataType::Utf8,
        SqlType::Bool | SqlType::Boolean => DataType::Boolean,
        SqlType::SmallInt(None) | SqlType::Int2(None) => DataType::Int16,
        SqlType::Int(None) | SqlType::Integer(None) | SqlType::Int4(None) => DataType::Int32,
        SqlType::BigInt(None) | SqlType::Int8(None) => DataType::Int64,
        SqlType::Real | SqlType::Float4 => DataType::Float32,
        SqlType::Double(ExactNumberInfo::None) | SqlType::DoublePrecision | SqlType::Float8 => DataType::Float64,
        // SQL's float is a double unless it asks for 24 bits or fewer.
        SqlType::Float(ExactNumberInfo::None) => DataType::Float64,
        SqlType::Decimal(number) | SqlType::Numeric(number) | SqlType::Dec(number) => decimal(number)?,
        SqlType::Timestamp(None | Some(6), TimezoneInfo::None | TimezoneInfo::WithTimeZone | TimezoneInfo::Tz)
        | SqlType::Datetime(None | Some(6)) => DataType::Timestamp(TimeUnit::Microsecond, Some(time_zone.clone())),
        SqlType::Date => DataType::Date32,
        SqlType::Varbinary(None) | SqlType::Bytea | SqlType::Binary(None) | SqlType::Blob(None) => DataType::Binary,
        // The elements of a list may be NULL.
        SqlType::Array(ArrayElemTypeDef::SquareBracket(item, None) | ArrayElemTypeDef::AngleBracket(item)) => {
            DataType::List(Arc::new(Field::new("item", data_type(item, time_zone)?, true)))
        }
        _ => return None,
    })
}

fn decimal(number: &ExactNumberInfo) -> Option<DataType> {
    let (precision, scale) = match number {
        ExactNumberInfo::None => (38, 10),
        ExactNumberInfo::Precision(precision) => (*precision, 0),
        ExactNumberInfo::PrecisionAndScale(precision, scale) => (*precision, *scale),
    };
    let fits = (1..=38).contains(&precision) && scale >= 0 && scale as u64 <= precision;
    fits.then_some(DataType::Decimal128(precision as u8, scale as i8))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(sql: &str) -> Result<ColumnType, Problem> {
        column_type(sql, &Arc::from("Asia/Kolkata"))
    }

    #[test]
    fn reads_the_types_of_sql() {
        let cases = [
            ("text not null", DataType::Utf8, false),
            ("TEXT", DataType::Utf8, true),
            ("varchar null", DataType::Utf8, true),
            ("double", DataType::Float64, true),
            ("double precision", DataType::Float64, true),
            ("real", DataType::Float32, true),
            ("bigint", DataType::Int64, true),
            ("integer", DataType::Int32, true),
            ("smallint", DataType::Int16, true),
            ("boolean", DataType::Boolean, true),
            ("date", DataType::Date32, true),
            ("decimal(10, 2) NOT NULL", DataType::Decimal128(10, 2), false),
            ("numeric(5)", DataType::Decimal128(5, 0), true),
            ("varbinary", DataType::Binary, true),
            ("bytea", DataType::Binary, true),
            (
                "double[] not null",
                DataType::List(Arc::new(Field::new("item", DataType::Float64, true))),
                false,
            ),
            (
                "timestamp not null",
                DataType::Timestamp(TimeUnit::Microsecond, Some("Asia/Kolkata".into())),
                false,
            ),
        ];
        for (sql, data_type, nullable) in cases {
            assert_eq!(read(sql), Ok(ColumnType { data_type, nullable }), "{sql}");
        }
    }

    #[test]
    fn refuses_the_rest_with_a_hint() {
        for sql in [
            "",
            "tex",
            "decimal(40, 2)",
            "decimal(3, 5)",
            "timestamp(3)",
            "text nul",
            "varchar(10)",
            "integer[3]",
            "geometry[]",
        ] {
            let problem = read(sql).expect_err(sql);
            assert!(problem.hint.is_some(), "{sql}");
        }
    }
}
