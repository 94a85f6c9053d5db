//! Texts and words, and what becomes of them.

use super::*;

fn assembled(text: &str, words: &str) -> Result<Assembled> {
    let mut all: Vec<String> = words
        .split(' ')
        .filter(|word| !word.is_empty())
        .map(str::to_string)
        .collect();
    let source = if text.is_empty() {
        Source::Words
    } else {
        all.push("j.toml".to_string());
        Source::File {
            path: Path::new("dir/j.toml"),
            text,
        }
    };
    assemble(&source, &Words::parse(&all)?, &mut |image| {
        if image == "missing" {
            return Err(Error::new("no such image"));
        }
        Ok(Pinned {
            text: format!("{image}@sha256:1"),
            reference: image.to_string(),
            stored: None,
        })
    })
}

#[test]
fn container_keys_become_flags() {
    let found = assembled(
        "[job]\nname = 'x'\n[container]\nimage = 'a'\nmounts = ['/a:/b:ro', '$TMPDIR/x:/y']\nworkdir = '/w'\nwritable = true\nhome = false\n\
         [container.env]\nA = '1'\nB = ''\n[[step]]\ncommand = ['x']\n[[step]]\ncommand = ['y']\ncontainer = { image = 'b', mounts = ['/c'], writable = false }\n",
        "",
    )
    .expect("it assembles");
    let expected = [
        "--bind",
        "/a:/b:ro",
        "--bind",
        "$TMPDIR/x:/y",
        "--workdir",
        "/w",
        "--writable",
        "--no-home",
        "--env",
        "A=1",
        "--unset-env",
        "B",
    ];
    assert_eq!(found.script.container, expected);
    assert_eq!(found.script.image.as_deref(), Some("a@sha256:1"));
    let InContainer::Own { image, options } = &found.script.steps[1].container else {
        panic!("not its own")
    };
    assert_eq!(image.as_deref(), Some("b@sha256:1"));
    assert!(
        options.windows(2).any(|pair| pair == ["--bind", "/c"]),
        "{options:?}"
    );
    assert!(options.contains(&"--read-only".to_string()), "{options:?}");
    assert_eq!(found.images.len(), 2);
    assert_eq!(
        found.steps[0]
            .container
            .as_ref()
            .map(|(_, options)| options.mount_lines.clone()),
        Some(vec![5, 5])
    );
}

#[test]
fn words_alone_are_a_job() {
    let found = assembled(
        "",
        "-N 2 --mpi=pmix --bind /a$HOME docker://r/a/app:v1 -- ./x y",
    )
    .expect("it assembles");
    let options: Vec<String> = found.script.options.iter().map(Setting::argument).collect();
    assert!(options[0].starts_with("--job-name=app-"), "{options:?}");
    assert_eq!(options[1], "--nodes=2");
    assert!(
        options[2].starts_with("--output=app-") && options[2].ends_with("-%j.out"),
        "{options:?}"
    );
    assert_eq!(found.script.container, ["--bind", "/a$$HOME"]);
    assert_eq!(found.script.steps[0].options[0].argument(), "--mpi=pmix");
    assert_eq!(found.script.steps[0].name, "x");
}

#[test]
fn the_command_line_wins_over_the_file() {
    let found = assembled(
        "[job]\nname='x'\nnodes=2\n[container]\nimage='a'\nworkdir='/a'\n",
        "-N 4 --workdir /b",
    )
    .expect("it assembles");
    assert_eq!(
        found
            .job
            .option("nodes")
            .and_then(|setting| setting.value.clone()),
        Some("4".to_string())
    );
    assert_eq!(found.script.container[2..], ["--workdir", "/b"]);
}

#[test]
fn mistakes_name_the_line() {
    let rows = [
        (
            "[container]\nimage='missing'\n",
            "cannot use the image `missing` of `dir/j.toml:2`",
        ),
        ("[container]\nmounts=['/a']\n", "cannot use `dir/j.toml:1`"),
        (
            "[container]\nimage='a'\nmonuts=['/a']\n",
            "cannot use `dir/j.toml:3`",
        ),
        (
            "[container]\nimage='a'\ngpu='some'\n",
            "cannot use `dir/j.toml:3`",
        ),
        ("[container]\nimage=\n", "cannot use `dir/j.toml:2`"),
    ];
    for (text, what) in rows {
        assert_eq!(assembled(text, "").expect_err(text).what(), what, "{text}");
    }
}

#[test]
fn results_get_time_to_come_home() {
    let text =
        |time: &str| format!("[job]\n{time}\n[container]\nimage='a'\n[[stage]]\nout='x'\nto='y'\n");
    let rows = [
        ("", true),
        ("time='01:00:00'", true),
        ("time=10", false),
        ("signal='USR1@60'", false),
    ];
    for (time, expected) in rows {
        let found = assembled(&text(time), "").expect("it assembles");
        let signal = found
            .job
            .option("signal")
            .and_then(|setting| setting.value.clone());
        assert_eq!(signal.as_deref() == Some("B:TERM@120"), expected, "{time}");
    }
}
