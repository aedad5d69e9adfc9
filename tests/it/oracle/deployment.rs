//! A random deployment: sources in a folder, read as any other, and views planned over them.

use std::fmt::Write as _;
use std::path::Path;

use arrow::datatypes::DataType;
use queries::{Catalog, Emit};
use sangam::config::{self, Deployment, ViewDef, ViewKind};

use super::closing::{self, Finished};
use super::dice::Dice;
use super::failing::Known;
use super::sources::Spec;
use super::values::{LAST_US, Taste, Ty};
use super::views::{Readable, Views, Written};

/// What a case runs.
pub(crate) struct Made {
    pub(crate) deployment: Deployment,
    pub(crate) specs: Vec<Spec>,
    pub(crate) views: Vec<Meant>,
    pub(crate) taste: Taste,
    /// Texts that the planner refused.
    pub(crate) refused: Vec<String>,
    /// Whether views come, change and go while it runs.
    pub(crate) changes: bool,
    /// The views as they were written.
    pub(crate) texts: Vec<Text>,
}

/// A view as it was written.
#[derive(Clone)]
pub(crate) struct Text {
    pub(crate) name: String,
    pub(crate) sql: String,
    pub(crate) options: Option<(Emit, Option<i64>)>,
}

/// A view, and what the test knows of it.
#[derive(Clone)]
pub(crate) struct Meant {
    pub(crate) plain: bool,
    /// Whether what it has closed is what a batch answers, whatever came later.
    pub(crate) steady: bool,
    pub(crate) known: Option<Known>,
}

/// Makes the deployment of a seed up.
pub(crate) fn make(dice: &mut Dice, workers: usize, dir: &Path) -> Made {
    let tame = dice.chance(25);
    let start_us = if !tame && dice.chance(4) {
        LAST_US - 40 * 3_600_000_000
    } else {
        1_767_225_600_000_000
    };
    let taste = Taste {
        tame,
        keys: dice.between(3, 7),
        now_us: start_us + dice.between(0, 86_400) * 1_000_000,
    };
    let shared = *dice.pick(&[Ty::Big, Ty::Text, Ty::Double, Ty::Date]);
    let specs: Vec<Spec> = (0..dice.between(1, 3))
        .map(|index| Spec::random(dice, format!("s{index}"), shared))
        .collect();
    let zone = *dice.pick(&["UTC", "UTC", "Asia/Kolkata"]);
    let mut deployment = load(dir, &specs, zone, workers);
    let mut texts = Vec::new();
    let mut relations: Vec<Readable> = specs
        .iter()
        .map(|spec| Readable {
            name: spec.name.clone(),
            columns: spec
                .columns
                .iter()
                .map(|column| (column.name.clone(), column.ty))
                .collect(),
            lists: vec![],
            rows: if spec.can_be_emptied() { 25 } else { 60 },
            depth: 0,
        })
        .collect();
    let mut views = Vec::new();
    let mut refused = Vec::new();
    let count = dice.between(4, 7) as usize;
    let failing = !tame && dice.chance(40);
    if failing {
        let source = dice.below(specs.len());
        let known = Known::random(dice, source, &specs[source]);
        add(&mut deployment, "known", &known.sql, None).unwrap_or_else(|problem| panic!("{}: {problem}", known.sql));
        texts.push(Text {
            name: "known".to_owned(),
            sql: known.sql.clone(),
            options: None,
        });
        views.push(Meant {
            plain: false,
            steady: false,
            known: Some(known),
        });
    }
    let may_fail = !tame && dice.chance(50);
    let mut finished: Vec<Finished> = Vec::new();
    let closes = dice.chance(60);
    while views.len() < count {
        let name = format!("v{}", views.len());
        if closes
            && dice.chance(45)
            && let Some(closing::Written { sql, steady, closes }) = closing::write(dice, &specs, &finished)
        {
            let options = closing::options(dice);
            match add(&mut deployment, &name, &sql, closes.then_some(options)) {
                Ok((columns, lists)) => {
                    texts.push(Text {
                        name: name.clone(),
                        sql,
                        options: closes.then_some(options),
                    });
                    finished.extend(bucket(&deployment).map(|bucket| (name.clone(), bucket)));
                    let (rows, depth) = (120, 1);
                    relations.push(Readable {
                        name,
                        columns,
                        lists,
                        rows,
                        depth,
                    });
                    views.push(Meant {
                        plain: false,
                        steady,
                        known: None,
                    });
                }
                Err(problem) => panic!("{sql}\n    {problem}"),
            }
            continue;
        }
        let written = Views {
            dice,
            relations: &relations,
            keys: taste.keys as usize,
            may_fail,
        }
        .view();
        let options = (closes && dice.chance(25)).then(|| closing::options(dice));
        match add(&mut deployment, &name, &written.sql, options) {
            Ok((columns, lists)) => {
                texts.push(Text {
                    name: name.clone(),
                    sql: written.sql.clone(),
                    options,
                });
                let Written { rows, depth, plain, .. } = written;
                relations.push(Readable {
                    name,
                    columns,
                    lists,
                    rows,
                    depth,
                });
                let is_closing = deployment.views.last().is_some_and(|view| view.view.closing.is_some());
                views.push(Meant {
                    plain: plain && tame && !is_closing,
                    steady: false,
                    known: None,
                });
            }
            Err(problem) => refused.push(format!("{}\n    {problem}", written.sql)),
        }
        assert!(
            refused.len() < 100,
            "every view made up is refused: {:#?}",
            &refused[90..]
        );
    }
    // Some views compute much alike, and share what they can.
    for twin in 0..dice.below(4) {
        let (sql, columns) = {
            let original = dice.pick(&deployment.views[usize::from(failing)..]);
            // Grouping sets of grouping sets of grouping sets grow past all use.
            if original.view.plan.nodes.len() > 60 {
                continue;
            }
            (
                original.view.sql.clone(),
                relations.iter().find(|known| known.name == original.view.name),
            )
        };
        let Some(column) = columns.map(|known| dice.pick(&known.columns).0.clone()) else {
            continue;
        };
        let sql = match dice.below(4) {
            0 => sql,
            1 => format!("SELECT \"{column}\" AS one FROM ({sql}) AS twin"),
            2 => format!("SELECT * FROM ({sql}) AS twin WHERE \"{column}\" IS NOT NULL"),
            _ => format!("SELECT \"{column}\" AS one, count(*) AS n FROM ({sql}) AS twin GROUP BY one"),
        };
        match add(&mut deployment, &format!("t{twin}"), &sql, None) {
            Ok(_) => {
                texts.push(Text {
                    name: format!("t{twin}"),
                    sql,
                    options: None,
                });
                views.push(Meant {
                    plain: false,
                    steady: false,
                    known: None,
                });
            }
            Err(problem) => refused.push(format!("{sql}\n    {problem}")),
        }
    }
    // What a view has closed while it was there is known to no other.
    let closing = deployment
        .views
        .iter()
        .any(|definition| definition.view.closing.is_some());
    Made {
        deployment,
        specs,
        views,
        taste,
        refused,
        changes: dice.chance(if closing { 0 } else { 50 }),
        texts,
    }
}

/// Makes a deployment of views that were made up before; tells where one is refused.
pub(crate) fn remake(
    specs: &[Spec],
    texts: &[Text],
    views: &[Meant],
    (taste, changes): (Taste, bool),
    (zone, workers): (&str, usize),
    dir: &Path,
) -> Result<Made, String> {
    let mut deployment = load(dir, specs, zone, workers);
    for text in texts {
        add(&mut deployment, &text.name, &text.sql, text.options)?;
    }
    Ok(Made {
        deployment,
        specs: specs.to_vec(),
        views: views.to_vec(),
        taste,
        refused: vec![],
        changes,
        texts: texts.to_vec(),
    })
}

fn load(dir: &Path, specs: &[Spec], zone: &str, workers: usize) -> Deployment {
    let sources = dir.join("sources");
    std::fs::create_dir_all(&sources).expect("a folder of our own");
    let options = format!("clock = \"event\"\ntime_zone = \"{zone}\"\nworkers = {workers}\n");
    std::fs::write(dir.join("deployment.toml"), options).expect("a folder of our own");
    for spec in specs {
        std::fs::write(sources.join(format!("{}.toml", spec.name)), spec.toml()).expect("a folder of our own");
    }
    config::load(dir).unwrap_or_else(|problems| {
        let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
        panic!("the sources made up are wrong: {}", problems.join("\n"))
    })
}

/// Columns and their types, or their elements'.
type Columns = Vec<(String, Ty)>;

/// Plans a view and adds it; returns the columns that expressions can be written over, and those of lists.
///
/// With options, it closes its buckets if it has any.
fn add(
    deployment: &mut Deployment,
    name: &str,
    sql: &str,
    options: Option<(Emit, Option<i64>)>,
) -> Result<(Columns, Columns), String> {
    let catalog: &mut Catalog = &mut deployment.catalog;
    let view = catalog.plan_view(name, sql).map_err(|problems| {
        problems
            .iter()
            .map(|problem| problem.what.clone())
            .collect::<Vec<_>>()
            .join("; ")
    })?;
    let view = match options {
        Some((emit, keep_us)) => catalog.closing(view.clone(), emit, keep_us).unwrap_or(view),
        None => view,
    };
    let fields = || view.schema.fields().iter();
    let columns: Columns = fields()
        .filter_map(|field| Ty::of(field.data_type()).map(|ty| (field.name().clone(), ty)))
        .collect();
    let lists: Columns = fields()
        .filter_map(|field| match field.data_type() {
            DataType::List(item) => Ty::of(item.data_type()).map(|ty| (field.name().clone(), ty)),
            _ => None,
        })
        .collect();
    if columns.is_empty() {
        return Err("no column can be read".to_owned());
    }
    catalog.add_view(view.clone()).map_err(|problem| problem.what)?;
    let key = view.implied_key.as_ref().map(|key| {
        key.iter()
            .map(|column| view.schema.index_of(column).expect("a key of its own columns"))
            .collect()
    });
    deployment.views.push(ViewDef {
        view,
        kind: ViewKind::View,
        key,
        key_is_implied: true,
    });
    Ok((columns, lists))
}

/// Returns the bucket's column of the view that was added last, if it closes any.
fn bucket(deployment: &Deployment) -> Option<String> {
    let view = &deployment.views.last()?.view;
    let column = view.closing.as_ref()?.bucket;
    Some(view.schema.field(column).name().clone())
}

impl Made {
    /// The whole deployment, for whoever has to find out why.
    pub(crate) fn print(&self) -> String {
        let mut text = format!(
            "time_zone = \"{}\", workers = {}\n",
            self.deployment.options.time_zone,
            self.deployment.options.workers.unwrap_or(0)
        );
        for spec in &self.specs {
            let _ = writeln!(text, "-- sources/{}.toml\n{}", spec.name, spec.toml());
        }
        for view in &self.deployment.views {
            let _ = writeln!(text, "-- views/{}.sql\n{}", view.view.name, view.view.sql);
            if let Some(closing) = &view.view.closing {
                let _ = writeln!(
                    text,
                    "-- closes {}: {:?}, {:?}",
                    closing.bucket, closing.emit, closing.keep_us
                );
            }
            let _ = writeln!(text);
        }
        text
    }
}
