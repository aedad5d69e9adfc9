//! Whole folders, as an operator would write them: right ones, and every way to be wrong.

use std::fs;

use tempfile::TempDir;

use super::*;

const READINGS: &str = r#"columns = { station = "text not null", at = "timestamp not null", ph = "double" }
time = { column = "at", lateness = "30 seconds" }
retain = "2 hours"
[connector]
type = "http"
"#;

const LATEST: &str = r#"--! key = ["station"]
SELECT station, max(at) AS at, last_value(ph ORDER BY at) AS ph FROM readings GROUP BY station
"#;

fn folder(files: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    dir
}

fn load_files(files: &[(&str, &str)]) -> Result<Deployment, Vec<FileProblem>> {
    let environment = |name: &str| (name == "ZONE").then(|| "Asia/Kolkata".to_owned());
    load_with(folder(files).path(), &Edit::Reload, &environment)
}

/// Loads what is wrong, and prints it as `sangam check` would.
fn problems(files: &[(&str, &str)]) -> String {
    match load_files(files) {
        Ok(_) => "all is well".to_owned(),
        Err(problems) => problems.iter().map(|problem| format!("{problem}\n")).collect(),
    }
}

/// Loads a source with one thing changed, and prints what is wrong with it.
fn source_problems(text: &str) -> String {
    problems(&[("sources/readings.toml", text)])
}

#[track_caller]
fn assert_says(found: &str, expected: &str) {
    assert!(found.contains(expected), "expected\n  {expected}\nin\n{found}");
}

#[test]
fn a_deployment_is_read_in_the_order_it_can_be_planned() {
    let deployment = load_files(&[
        ("deployment.toml", "time_zone = \"${ZONE}\"\nlisten = \"0.0.0.0:0\"\nworkers = 2"),
        ("sources/readings.toml", READINGS),
        ("views/latest.sql", LATEST),
        ("alerts/acid.sql", "--! key = [\"station\"]\n--! priority = \"high\"\nSELECT station, ph FROM latest WHERE ph < 6"),
        ("views/zone.sql", "SELECT ph FROM acid"),
        ("tests/acid.toml", "[[step]]\nat = 2026-01-01T00:00:00Z\nrows.readings = [{ station = \"K1\", at = 2026-01-01T00:00:00Z, ph = 5 }]\nexpect.acid = [{ station = \"K1\" }]"),
        ("README.md", ""),
        ("data/anything.bin", ""),
        (".hidden", ""),
    ])
    .unwrap();
    let names: Vec<&str> = deployment.views.iter().map(|view| view.view.name.as_str()).collect();
    assert_eq!(names, ["latest", "acid", "zone"]);
    assert_eq!(deployment.options.time_zone, "Asia/Kolkata");
    assert_eq!(
        deployment.views[1].kind,
        ViewKind::Alert {
            priority: Priority::High
        }
    );
    assert_eq!(deployment.views[0].key, Some(vec![0]));
    assert!(deployment.views[0].key_is_implied);
    let source = &deployment.sources[0];
    let columns: Vec<&str> = source
        .schema
        .fields()
        .iter()
        .map(|field| field.name().as_str())
        .collect();
    assert_eq!(columns, ["station", "at", "ph"], "columns keep the order of the file");
    assert_eq!(source.retain_us, Some(7_200_000_000));
    assert_eq!(
        source.time,
        Some(TimeColumn {
            column: 1,
            lateness_us: Some(30_000_000),
            ahead_us: Some(60_000_000),
            idle_us: 30_000_000
        })
    );
    assert_eq!(deployment.tests[0].steps[0].at_us, 1_767_225_600_000_000);
    assert_eq!(deployment.warnings, []);
}

#[test]
fn an_empty_folder_is_a_deployment() {
    let deployment = load_files(&[]).unwrap();
    assert_eq!(deployment.options.listen, "127.0.0.1:7878");
    assert_eq!(deployment.options.clock, Clock::Wall);
    assert_eq!(deployment.options.body_bytes_max, 16 << 20);
}

#[test]
fn every_problem_of_every_file_is_told_at_once() {
    let found = problems(&[
        (
            "deployment.toml",
            "listn = \"127.0.0.1:7878\"\nclock = \"wal\"\nworkers = 0\n",
        ),
        (
            "sources/readings.toml",
            "columns = { station = \"text\", at = \"timestmp not null\", ph = \"double\" }\nkey = [\"statoin\", \"station\"]\ntime = { column = \"ph\", lateness = \"soon\" }\nretain = \"2 hours\"\nretian = \"2 days\"\n",
        ),
        ("sources/Weather.toml", READINGS),
        (
            "views/latest.sql",
            "--! key = [\"stations\"]\nSELECT station,\n  count(*) AS n\nFROM weather_now\nGROUP BY station\n",
        ),
        ("alerts/acid.sql", "--! key = [\"station\"]\nSELECT 1 AS station\n"),
        ("views/notes.txt", ""),
        ("view", ""),
    ]);
    insta_like(
        &found,
        r#"
alerts/acid.sql:1: an alert needs a `priority`
    Hint: Write `--! priority = "high"`; the choices are low, medium, high and critical.
deployment.toml:1: unknown key "listn"
    Hint: Did you mean "listen"?
deployment.toml:2: `clock` cannot be "wal"
    Hint: Did you mean "wall"?
deployment.toml:3: `workers` must be from 1 to 256
    Hint: Leave it out for one worker for every two processors.
sources/Weather.toml: "Weather" cannot be the name of a source
    Hint: The file's name is the component's name: a small letter, then small letters, digits and underscores, at most 63.
sources/readings.toml:1: column "at": column type "timestmp not null" is not supported
    Hint: Use text, boolean, smallint, integer, bigint, real, double, decimal(p, s), timestamp, date or varbinary, with [] after it for a list, and "not null" after it where NULL may not stand.
sources/readings.toml:1: key column "station" may be NULL
    Hint: Declare it `not null`: NULL identifies nothing.
sources/readings.toml:1: time column "ph" is not a timestamp
    Hint: Declare it `timestamp not null`.
sources/readings.toml:2: `key` names an unknown column "statoin"
    Hint: Did you mean "station"?
sources/readings.toml:3: `time.lateness`: "soon" is not a span of time such as "30 seconds" or "2 days" (expected number at 0)
sources/readings.toml:5: unknown key "retian"
    Hint: Did you mean "retain"?
sources/readings.toml: a source needs a `[connector]`
    Hint: Write for example `[connector]` and below it `type = "http"`; the types there are: "http", "file", "kafka", "mqtt", "mqtt_listener", "simulate", "nexmark".
view: unknown file
    Hint: Did you mean "views"?
views/latest.sql:4: there is no source or view "weather_now"
    Hint: The relations there are: "Weather", "readings", "acid".
views/notes.txt: unknown file
    Hint: Each view is one file views/NAME.sql.
"#,
    );
}

/// Compares line by line, order aside where two problems share a line.
#[track_caller]
fn insta_like(found: &str, expected: &str) {
    let sorted = |text: &str| {
        let mut problems: Vec<String> = Vec::new();
        for line in text.lines().filter(|line| !line.is_empty()) {
            match problems.last_mut() {
                Some(problem) if line.starts_with("    ") => {
                    problem.push('\n');
                    problem.push_str(line);
                }
                _ => problems.push(line.to_owned()),
            }
        }
        problems.sort();
        problems.join("\n")
    };
    assert_eq!(sorted(found), sorted(expected));
}

#[test]
fn sources_are_refused_for_what_would_not_work() {
    let with = |from: &str, to: &str| source_problems(&READINGS.replace(from, to));
    assert_says(
        &with("retain =", "key = [\"station\"]\nretain ="),
        "sources/readings.toml:2: `lateness` stands beside `key`",
    );
    assert_says(
        &with("retain =", "retractions = true\nretain ="),
        "`lateness` stands beside `retractions`",
    );
    assert_says(
        &with("retain =", "key = []\nretain ="),
        "sources/readings.toml:3: `key` names no column",
    );
    assert_says(
        &with("retain =", "key = [\"at\", \"at\"]\nretain ="),
        "`key` names \"at\" twice",
    );
    assert_says(
        &with("retain =", "key = [\"ph\"]\nretain ="),
        "sources/readings.toml:1: key column \"ph\" may be NULL",
    );
    assert_says(
        &with("retain =", "key = [\"at\"]\nretractions = true\nretain ="),
        "`retractions` stands beside `key`",
    );
    assert_says(
        &with("retain =", "version = \"at\"\nretain ="),
        "sources/readings.toml:3: `version` without `key`",
    );
    assert_says(
        &with("retain =", "key = [\"at\"]\nversion = \"ph\"\nretain ="),
        "version column \"ph\" may be NULL",
    );
    assert_says(
        &with("retain =", "key = [\"at\"]\nversion = \"pH\"\nretain ="),
        "`version` names an unknown column \"pH\"\n    Hint: Did you mean \"ph\"?",
    );
    assert_says(
        &with("column = \"at\"", "column = \"ph\""),
        "sources/readings.toml:1: time column \"ph\" is not a timestamp",
    );
    assert_says(
        &with("timestamp not null", "timestamp"),
        "time column \"at\" may be NULL",
    );
    assert_says(
        &with("column = \"at\"", "column = \"att\""),
        "sources/readings.toml:2: `time.column` names an unknown column \"att\"\n    Hint: Did you mean \"at\"?",
    );
    assert_says(
        &with("2 hours", "10 seconds"),
        "sources/readings.toml:3: `retain` (10s) is shorter than `lateness` (30s)",
    );
    assert_says(
        &with("2 hours", "2 hors"),
        "sources/readings.toml:3: `retain`: \"2 hors\" is not a span of time",
    );
    assert_says(
        &with("\"2 hours\"", "2"),
        "sources/readings.toml:3: `retain`: invalid type: integer `2`, expected a span of time such as",
    );
    assert_says(
        &with("ph = \"double\"", "pH = \"double\""),
        "\"pH\" cannot be the name of a column",
    );
    assert_says(
        &with("\"http\"", "\"htp\""),
        "sources/readings.toml:5: `connector.type`: unknown connector type \"htp\"",
    );
    assert_says(&with("\"http\"", "\"htp\""), "Hint: Did you mean \"http\"?");
    assert_says(
        &with("\"http\"", "\"http\"\nport = 1"),
        "sources/readings.toml:6: unknown key \"port\"",
    );
    assert_says(
        &with("\"http\"", "\"file\"\npath = 3"),
        "sources/readings.toml:6: `connector.path`",
    );
    assert_says(
        &with("\"http\"", "\"file\""),
        "sources/readings.toml:4: `connector` needs a key `path`",
    );
    assert_says(
        &with("\"http\"", "\"http\"\n[format]\ntype = \"jsn\""),
        "sources/readings.toml:7: `format.type` cannot be \"jsn\"",
    );
    assert_says(
        &with("\"http\"", "\"${NOBODY}\""),
        "sources/readings.toml:5: environment variable NOBODY is not set",
    );
    assert_says(
        &with("retain =", "retain = ="),
        "sources/readings.toml:3: not valid TOML",
    );
    assert_eq!(with("\"http\"", "\"htp\"").lines().count(), 2, "one mistake, one hint");
    let simulate = "\"simulate\"\ninterval = \"1 minute\"\n[connector.columns.pH]\nbase = 7";
    assert_says(
        &with("\"http\"", simulate),
        "sources/readings.toml:7: there is a model for column \"pH\"",
    );
    assert_says(&with("\"http\"", simulate), "simulated rows must be marked");
    assert_says(
        &with("\"http\"", "\"http\"\n[format]\ndelimiter = \";\""),
        "sources/readings.toml:7: delimiter",
    );
    assert_says(&with("\"http\"", "\"file\"\npath = \"data/none.csv\""), "data/none.csv");
    assert_says(
        &source_problems("[connector]\ntype = \"http\""),
        "a source needs `columns`",
    );
    assert_says(
        &source_problems("columns = { a = \"text\" }"),
        "a source needs a `[connector]`",
    );
    assert_says(
        &source_problems("columns = { a = { typ = \"text\" } }"),
        "unknown key \"typ\"\n    Hint: Did you mean \"type\"?",
    );
}

#[test]
fn a_simulation_must_end_under_the_event_clock() {
    let source = |bound: &str| {
        let columns = "columns = { at = \"timestamp not null\", simulated = \"boolean\" }\nretain = \"1 hour\"\n";
        let text = format!("{columns}[connector]\ntype = \"simulate\"\ninterval = \"1 minute\"\n{bound}");
        problems(&[
            ("deployment.toml", "clock = \"event\""),
            ("sources/made_up.toml", &text),
        ])
    };
    assert_says(
        &source(""),
        "sources/made_up.toml:3: a simulation without an end under the event clock",
    );
    assert_eq!(source("rows = 1000"), "all is well");
}

#[test]
fn a_benchmark_must_end_under_the_event_clock() {
    let source = |rest: &str| {
        let columns = "columns = { id = \"bigint not null\", note = \"text\" }\n";
        let text = format!("{columns}[connector]\ntype = \"nexmark\"\ntable = \"person\"\n{rest}");
        problems(&[("deployment.toml", "clock = \"event\""), ("sources/person.toml", &text)])
    };
    assert_says(
        &source(""),
        "sources/person.toml:2: a benchmark without an end under the event clock",
    );
    assert_says(&source(""), "give it `events`");
    // What the table does not have stays NULL.
    assert_eq!(source("events = 1000"), "all is well");
    assert_says(
        &source("events = 1000\nrate = 0"),
        "sources/person.toml:6: rate is not from 1 to 1000000",
    );
}

#[test]
fn an_arrival_column_is_filled_by_nobody_else() {
    let source = |column: &str, rest: &str| {
        let columns = format!("columns = {{ k = \"bigint not null\", a = \"{column}\" }}");
        source_problems(&format!(
            "{columns}\narrival = \"a\"\n{rest}[connector]\ntype = \"http\"\n"
        ))
    };
    assert_eq!(source("timestamp", ""), "all is well");
    assert_eq!(source("timestamp", "key = [\"k\"]\n"), "all is well");
    let plain = "sources/readings.toml:1: arrival column \"a\" is not a plain timestamp";
    assert_says(&source("timestamp not null", ""), plain);
    assert_says(&source("text", ""), plain);
    assert_says(
        &source("timestamp", "retractions = true\n"),
        "sources/readings.toml:2: `arrival` stands beside `retractions`",
    );
    assert_says(
        &source("timestamp", "key = [\"k\"]\nversion = \"a\"\n"),
        "`arrival` names \"a\", which rows bring along",
    );
}

#[test]
fn a_view_cannot_read_what_is_measured() {
    let found = problems(&[
        ("sources/readings.toml", READINGS),
        ("views/v.sql", "SELECT source\nFROM sangam.late"),
    ]);
    assert_says(
        &found,
        "views/v.sql:2: the system table sangam.late in a view cannot be kept current\n    Hint: Ask for it with a query instead.",
    );
}

#[test]
fn one_mistake_is_told_once() {
    // The view reads a broken source, the test reads both: their names are known.
    let found = problems(&[
        ("sources/readings.toml", &READINGS.replace("\"double\"", "\"dubble\"")),
        ("views/latest.sql", LATEST),
        (
            "tests/t.toml",
            "[[step]]\nat = \"2026-01-01\"\nrows.readings = []\nexpect.latest = []",
        ),
    ]);
    assert_eq!(found.matches("sources/").count(), 1, "{found}");
    assert_eq!(
        found.matches("views/").count() + found.matches("tests/").count(),
        0,
        "{found}"
    );
}

#[test]
fn names_are_checked() {
    let found = problems(&[
        ("sources/readings.toml", READINGS),
        ("sources/sangam.toml", READINGS),
        ("views/readings.sql", "SELECT 1"),
        ("views/9lives.sql", "SELECT 1"),
        ("sources/deep/x.toml", ""),
    ]);
    assert_says(
        &found,
        "sources/sangam.toml: the name \"sangam\" is taken by the system's own tables",
    );
    assert_says(
        &found,
        "views/readings.sql: the name \"readings\" is taken by sources/readings.toml",
    );
    assert_says(&found, "views/9lives.sql: \"9lives\" cannot be the name of a view");
    assert_says(
        &found,
        "sources/deep: unknown folder\n    Hint: Each source is one file sources/NAME.toml.",
    );
    assert_says(&problems(&[("sunks/a.toml", "")]), "sunks: unknown folder");
}

#[test]
fn sinks_are_checked() {
    let sink = |options: &str, text: &str| {
        problems(&[
            ("deployment.toml", options),
            ("sources/readings.toml", READINGS),
            ("views/latest.sql", LATEST),
            ("sinks/out.toml", text),
        ])
    };
    let kafka = "[connector]\ntype = \"kafka\"\nbrokers = \"127.0.0.1:1\"\ntopic = \"t\"\n";
    assert_says(&sink("", ""), "sinks/out.toml: a sink needs `from`");
    assert_says(
        &sink("", &format!("from = \"lastest\"\n{kafka}")),
        "there is no view or alert \"lastest\"\n    Hint: Did you mean \"latest\"?",
    );
    assert_says(&sink("", "from = \"latest\""), "a sink needs a `[connector]`");
    assert_says(
        &sink("durability = \"none\"", &format!("from = \"latest\"\n{kafka}")),
        "a sink in a deployment of which nothing survives",
    );
    let full = |more: &str| sink("", &format!("from = \"latest\"\nwhen_full = {more}\n{kafka}"));
    assert_says(
        &full("\"drop\""),
        "sinks/out.toml:2: `when_full` cannot be \"drop\"\n    Hint: The choices there are: \"block\", \"conflate\".",
    );
    assert_says(
        &sink(
            "",
            &format!("from = \"latest\"\nwhen_full = \"conflate\"\n{kafka}mode = \"changes\"\n"),
        ),
        "sinks/out.toml:2: when_full = \"conflate\" for a sink that tells of every change\n    Hint: Only the newest row of a \
         key can stand for those before: use mode = \"upsert\", or leave `when_full` out.",
    );
}

#[test]
fn sinks_that_tell_the_newest_of_each_key_may_conflate() {
    let sink = |view: &str, more: &str| {
        let out = format!(
            "from = \"latest\"\nwhen_full = \"conflate\"\nwaiting_ticks_max = 5\n[connector]\ntype = \"kafka\"\n\
             brokers = \"127.0.0.1:1\"\ntopic = \"t\"\n{more}"
        );
        let files = [
            ("sources/readings.toml", READINGS),
            ("views/latest.sql", view),
            ("sinks/out.toml", &out),
        ];
        match load_files(&files) {
            Ok(deployment) => format!("{:?}", deployment.sinks[0].when_full),
            Err(_) => problems(&files),
        }
    };
    for more in ["", "exactly_once = false", "mode = \"upsert\""] {
        assert_eq!(sink(LATEST, more), "Conflate");
    }
    assert_says(
        &sink("SELECT station FROM readings", ""),
        "sinks/out.toml:2: when_full = \"conflate\" for a sink that tells of every change\n    Hint: Only the newest row of a \
         key can stand for those before: declare the `key` of the view, or leave `when_full` out.",
    );
}

#[test]
fn a_folder_that_is_not_there_is_a_problem() {
    let Err(problems) = load(Path::new("/nonexistent/deployment")) else {
        panic!("there is one")
    };
    assert_says(
        &problems[0].under(Path::new("x")).to_string(),
        "x: could not read the deployment folder",
    );
}

#[test]
fn views_are_refused_for_what_would_not_work() {
    let view = |text: &str| {
        problems(&[
            ("sources/readings.toml", READINGS),
            ("views/latest.sql", LATEST),
            ("views/v.sql", text),
        ])
    };
    assert_says(
        &view("SELECT *\nFROM latst"),
        "views/v.sql:2: there is no source or view \"latst\"\n    Hint: Did you mean \"latest\"?",
    );
    assert_says(
        &view("--! key = [\"sation\"]\nSELECT station FROM latest"),
        "views/v.sql:1: `key` names an unknown column \"sation\"\n    Hint: Did you mean \"station\"?",
    );
    assert_says(
        &view("--! key = []\nSELECT station FROM latest"),
        "views/v.sql:1: `key` names no column",
    );
    assert_says(
        &view("--! keep = \"2 years\"\nSELECT station FROM latest"),
        "views/v.sql:1: the view shows no bucket of a source's time, so nothing in it is ever closed",
    );
    assert_says(
        &view("--! emit = \"on close\"\nSELECT station FROM latest"),
        "views/v.sql:1: the view shows no bucket of a source's time, so nothing in it is ever closed",
    );
    assert_says(&view("SELECT station\nFORM latest"), "views/v.sql");
    assert_says(&view("-- A comment.\nSELECT sttion\nFROM latest"), "views/v.sql:2: ");
    assert_says(&view("SELECT station, random() AS r FROM latest"), "views/v.sql");
}

#[test]
fn a_circle_of_views_is_told_with_its_path() {
    let found = problems(&[
        ("views/a.sql", "SELECT * FROM b"),
        ("views/b.sql", "SELECT * FROM c"),
        ("views/c.sql", "SELECT * FROM a"),
        ("views/d.sql", "SELECT * FROM a"),
    ]);
    assert_eq!(
        found,
        "views/a.sql: views read each other in a circle: a → b → c → a\n    Hint: Break the circle: let one of them read a source instead.\n"
    );
}

#[test]
fn retain_must_cover_how_far_views_look_back() {
    let back = |interval: &str| {
        problems(&[
            ("sources/readings.toml", READINGS),
            ("views/plain.sql", "SELECT station, at, ph FROM readings"),
            (
                "views/recent.sql",
                &format!("SELECT station, ph FROM plain WHERE at > now() - INTERVAL '{interval}'"),
            ),
        ])
    };
    assert_eq!(back("2 hours"), "all is well");
    assert_says(
        &back("3 hours"),
        "sources/readings.toml:3: `retain` (2h) is shorter than \"recent\" looks back (3h)",
    );
}

#[test]
fn what_grows_for_ever_is_warned_of() {
    let deployment = load_files(&[
        ("sources/readings.toml", &READINGS.replace("retain = \"2 hours\"\n", "")),
        (
            "sources/names.toml",
            "columns = { station = \"text not null\" }\nkey = [\"station\"]\n[connector]\ntype = \"http\"",
        ),
        ("views/latest.sql", LATEST),
    ])
    .unwrap();
    let warnings: Vec<String> = deployment.warnings.iter().map(ToString::to_string).collect();
    assert_says(
        &warnings.join("\n"),
        "sources/readings.toml: rows are kept for ever, and the state of \"latest\" may grow for ever",
    );
    assert!(!warnings.join("\n").contains("names.toml"), "{warnings:?}");
}

#[test]
fn tests_are_checked() {
    let test = |text: &str| {
        problems(&[
            ("sources/readings.toml", READINGS),
            ("views/latest.sql", LATEST),
            ("tests/t.toml", text),
        ])
    };
    assert_says(&test(""), "tests/t.toml: a test without a step");
    let step = |rest: &str| test(&format!("[[step]]\nat = \"2026-01-01\"\n{rest}"));
    assert_eq!(step("expect.latest = []"), "all is well");
    assert_says(
        &step("rows.reading = []"),
        "tests/t.toml:3: there is no source \"reading\"\n    Hint: Did you mean \"readings\"?",
    );
    assert_says(
        &step("rows.readings = [\n  { pH = 1.0 },\n]"),
        "tests/t.toml:4: \"readings\" has no column \"pH\"\n    Hint: Did you mean \"ph\"?",
    );
    assert_says(
        &step("expect.latst = []"),
        "tests/t.toml:3: there is no view, alert or source \"latst\"",
    );
    assert_says(
        &step("expect.latest = [{ sation = 1 }]"),
        "tests/t.toml:3: \"latest\" has no column \"sation\"",
    );
    assert_says(
        &step("expect.latest = { columns = [\"a\"], rows = [] }"),
        "\"latest\" has no column \"a\"",
    );
    assert_says(
        &step("delete.readings = []"),
        "tests/t.toml:3: rows of \"readings\" cannot be deleted",
    );
    assert_says(
        &step("expects.latest = []"),
        "tests/t.toml:3: unknown key \"expects\"\n    Hint: Did you mean \"expect\"?",
    );
    assert_says(
        &test("[[step]]\nat = \"noon\""),
        "tests/t.toml:2: \"noon\" is not a time",
    );
    assert_says(&test("[[step]]\nrows.readings = []"), "needs a key `at`");
    assert_says(
        &step("[[step]]\nat = \"2025-12-31\""),
        "tests/t.toml:4: a step that is not after the one before it",
    );
    assert_says(
        &test("tolerance = -1.0\n[[step]]\nat = \"2026-01-01\""),
        "tests/t.toml:1: `tolerance` must be a number from 0 up",
    );
}

/// The house's own deployment must always pass.
#[test]
fn config_water_passes_check() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/water");
    match load(&dir) {
        Ok(deployment) => assert_eq!(deployment.warnings, []),
        Err(problems) => panic!("{problems:#?}"),
    }
}

#[test]
fn snapshots_and_envelopes_stand_by_themselves() {
    let source = |above: &str, below: &str| {
        let columns = "columns = { id = \"bigint not null\", at = \"timestamp not null\" }";
        source_problems(&format!("{columns}\n{above}\n[connector]\n{below}\n"))
    };
    let http = "type = \"http\"";
    for (above, below, said) in [
        (
            "snapshot = true\nretractions = true",
            http,
            "`retractions` stands beside `snapshot`",
        ),
        (
            "snapshot = true\nretain = \"1 hour\"",
            http,
            "`retain` stands beside `snapshot`",
        ),
        (
            "snapshot = true\nkey = [\"id\"]\nversion = \"at\"",
            http,
            "`version` stands beside `snapshot`",
        ),
        (
            "snapshot = true\ntime = { column = \"at\", lateness = \"1 minute\" }",
            http,
            "`time.lateness` stands beside `snapshot`",
        ),
        (
            "snapshot = true",
            "type = \"file\"\npath = \"x.csv\"\nfollow = true",
            "a snapshot of a file that is followed",
        ),
        (
            "snapshot = true\nformat = { envelope = \"debezium\" }",
            http,
            "`snapshot` stands beside an envelope",
        ),
        (
            "format = { envelope = \"debezium\" }",
            http,
            "an envelope around rows that are never taken back",
        ),
        (
            "key = [\"id\"]\nformat = { type = \"csv\", envelope = \"debezium\" }",
            http,
            "envelope is an option of json, not of csv",
        ),
        ("key = [\"id\"]\nformat = { envelope = \"maxwell\" }", http, "maxwell"),
    ] {
        assert_says(&source(above, below), said);
    }
}
