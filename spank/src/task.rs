//! slurmstepd's forked child, as the user, just before it executes the task: the launcher is put in front.
//!
//! May fail: a negative return ends the task before anything is executed, with the reason on the user's stderr.

use crate::client;
use crate::host::{BATCH_STEP, EXTERN_STEP, INTERACTIVE_STEP, Place, Spank};
use crate::options::Asked;
use crate::stepd;
use std::ffi::CString;

/// Settings from the line in plugstack.conf.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Absolute path of `carrack` on every node.
    pub launcher: String,
    /// Where roots that have a name are kept on the nodes until their job ends.
    pub state: String,
    /// A store that is root's alone, whose images the kernel mounts; none unless the site says so.
    pub kernel_mount: Option<String>,
    /// Whether `sbatch --container-image` runs the batch script itself inside.
    pub batch_inside: bool,
}

impl Settings {
    /// Reads the arguments of the plugstack.conf line; an unknown one is an error, never ignored.
    pub fn parse<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Result<Settings, String> {
        let mut settings = Settings {
            launcher: "/usr/local/bin/carrack".to_string(),
            state: "/run/carrack".to_string(),
            kernel_mount: None,
            batch_inside: false,
        };
        for argument in arguments {
            match argument.split_once('=') {
                Some(("launcher", path)) if path.starts_with('/') => {
                    settings.launcher = path.to_string()
                }
                Some(("state", path)) if path.starts_with('/') && path.len() > 1 => {
                    settings.state = path.trim_end_matches('/').to_string()
                }
                Some(("kernel-mount", path)) if path.starts_with('/') && path.len() > 1 => {
                    settings.kernel_mount = Some(path.trim_end_matches('/').to_string())
                }
                Some((name @ ("launcher" | "state" | "kernel-mount"), path)) => {
                    return Err(format!(
                        "`{name}={path}` in plugstack.conf is not an absolute path"
                    ));
                }
                Some(("batch", "inside")) => settings.batch_inside = true,
                Some(("batch", "outside")) => settings.batch_inside = false,
                _ => {
                    return Err(format!(
                        "`{argument}` in plugstack.conf is not known: launcher=PATH, state=DIRECTORY, kernel-mount=STORE, batch=inside|outside"
                    ));
                }
            }
        }
        Ok(settings)
    }
}

/// Makes the task enter its container, if one was asked for. `mounted`: where the kernel mounted the image.
pub fn init(
    spank: &mut dyn Spank,
    asked: &Asked,
    settings: &Settings,
    mounted: Option<&str>,
) -> Result<(), String> {
    if spank.place() != Place::Stepd {
        return Ok(());
    }
    match spank.step_id() {
        Some(EXTERN_STEP | INTERACTIVE_STEP) => return Ok(()),
        Some(BATCH_STEP) if !settings.batch_inside => return Ok(()),
        Some(_) => {}
        None => return Err("Slurm does not tell which step this is".to_string()),
    }
    let Some(container) = asked.as_ref().map_err(String::clone)? else {
        return Ok(());
    };
    executable(&settings.launcher)?;
    let mut words = vec![settings.launcher.clone(), "exec".to_string()];
    if container.name.is_some() {
        let step = spank
            .step()
            .ok_or("Slurm does not tell which job this is")?;
        words.push(format!(
            "--keep-in={}",
            stepd::directory(settings, step.job)
        ));
    }
    words.extend(mounted.map(|path| format!("--mounted={path}")));
    if container.save.is_some() {
        words.push("--hold".to_string());
    }
    words.extend(spank.step_end().map(|end| format!("--step-end={end}")));
    words.extend(container.words(client::pinned(spank, &container.key)));
    if spank.step_id() == Some(BATCH_STEP) {
        // The script lies in a directory of slurmd's that no image has.
        let command = spank.command();
        let script = command.first().ok_or(NO_COMMAND)?.to_string_lossy();
        words.push(format!("--bind={script}:{script}:ro"));
    }
    words.push("--".to_string());
    let words: Vec<CString> = words
        .into_iter()
        .map(|word| CString::new(word).map_err(|_| "an option contains a NUL byte".to_string()))
        .collect::<Result<_, _>>()?;
    if carrack::handover::are_guarded_programs(&spank.command()) {
        // srun has put the launcher in front already.
        return hand_over(spank, &words, None);
    }
    match spank.prepend(&words) {
        Some(result) => result,
        None => replace(spank, &words),
    }
}

const NO_COMMAND: &str = "Slurm does not tell the command of this task";

/// slurmstepd's own words for a program that is not there would not name the node.
fn executable(launcher: &str) -> Result<(), String> {
    use std::os::unix::fs::PermissionsExt;
    let problem = match std::fs::metadata(launcher) {
        Ok(found) if found.is_file() && found.permissions().mode() & 0o111 != 0 => return Ok(()),
        Ok(_) => "it is no program".to_string(),
        Err(error) => error.to_string(),
    };
    Err(format!(
        "cannot start the container on this node: `{launcher}`: {problem}; see `launcher=` in plugstack.conf"
    ))
}

/// For Slurm before 23.11: the launcher takes the first word's place, and finds the rest in its environment.
fn replace(spank: &mut dyn Spank, words: &[CString]) -> Result<(), String> {
    let (Some(launcher), Some(command)) = (words.first(), spank.command().into_iter().next())
    else {
        return Err(NO_COMMAND.to_string());
    };
    hand_over(spank, words, Some(&command))?;
    spank.replace_word(0, launcher.clone())
}

/// What belongs between the launcher and its words, and the command if it is not among them.
fn hand_over(
    spank: &mut dyn Spank,
    words: &[CString],
    command: Option<&CString>,
) -> Result<(), String> {
    let mut handed_over: Vec<&[u8]> = words.iter().skip(1).map(|word| word.as_bytes()).collect();
    handed_over.extend(command.map(|command| carrack::handover::unguard(command.as_bytes())));
    spank.set_variable(
        carrack::handover::VARIABLE,
        &carrack::handover::encode(&handed_over),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::Fake;

    fn settings() -> Settings {
        Settings {
            launcher: "/bin/sh".into(),
            state: "/run/carrack".into(),
            kernel_mount: None,
            batch_inside: false,
        }
    }

    fn asking() -> Asked {
        crate::options::tests::asking(&[("container-image", "debian:12")])
    }

    fn texts(words: &[CString]) -> Vec<&str> {
        words.iter().map(|word| word.to_str().unwrap()).collect()
    }

    #[test]
    fn new_slurm_prepends() {
        let mut spank = Fake::at(Place::Stepd);
        spank.can_prepend = true;
        spank
            .variables
            .insert(client::PIN.into(), "debian:12\tsha256:1".into());
        init(&mut spank, &asking(), &settings(), None).unwrap();
        assert_eq!(
            texts(&spank.command),
            ["/bin/sh", "exec", "--image=sha256:1", "--", "./app", "-x"]
        );
        assert!(!spank.variables.contains_key(carrack::handover::VARIABLE));
    }

    #[test]
    fn old_slurm_gets_the_first_word_replaced() {
        let mut spank = Fake::at(Place::Stepd);
        init(&mut spank, &asking(), &settings(), None).unwrap();
        assert_eq!(texts(&spank.command), ["/bin/sh", "-x"]);
        let handed =
            carrack::handover::decode(spank.variables[carrack::handover::VARIABLE].as_bytes())
                .unwrap();
        assert_eq!(
            handed,
            [
                b"exec".to_vec(),
                b"--image=debian:12".to_vec(),
                b"--".to_vec(),
                b"./app".to_vec()
            ]
        );
    }

    #[test]
    fn names_and_saves_are_told_to_the_launcher() {
        let options = [
            ("container-image", "x"),
            ("container-name", "box"),
            ("container-save", "/a.sqsh"),
        ];
        let mut spank = Fake::at(Place::Stepd);
        spank.can_prepend = true;
        init(
            &mut spank,
            &crate::options::tests::asking(&options),
            &settings(),
            None,
        )
        .unwrap();
        assert_eq!(
            texts(&spank.command)[1..6],
            [
                "exec",
                "--keep-in=/run/carrack/7",
                "--hold",
                "--name=box",
                "--image=x"
            ]
        );
    }

    #[test]
    fn batch_extern_and_bare_steps_stay_outside() {
        for step in [BATCH_STEP, EXTERN_STEP, INTERACTIVE_STEP] {
            let mut spank = Fake::at(Place::Stepd);
            spank.step = Some(step);
            init(&mut spank, &asking(), &settings(), None).unwrap();
            assert_eq!(texts(&spank.command), ["./app", "-x"]);
        }
        let mut bare = Fake::at(Place::Stepd);
        init(&mut bare, &Ok(None), &settings(), None).unwrap();
        assert_eq!(texts(&bare.command), ["./app", "-x"]);
        let mut batch = Fake::at(Place::Stepd);
        batch.step = Some(BATCH_STEP);
        init(
            &mut batch,
            &asking(),
            &Settings {
                batch_inside: true,
                ..settings()
            },
            None,
        )
        .unwrap();
        assert_eq!(texts(&batch.command)[0], "/bin/sh");
    }

    #[test]
    fn what_cannot_be_done_is_refused() {
        let mut unknown_step = Fake::at(Place::Stepd);
        unknown_step.step = None;
        assert!(init(&mut unknown_step, &asking(), &settings(), None).is_err());
        let elsewhere = Settings {
            launcher: "/nowhere/carrack".into(),
            ..settings()
        };
        let error = init(&mut Fake::at(Place::Stepd), &asking(), &elsewhere, None).unwrap_err();
        assert!(error.contains("`/nowhere/carrack`"), "{error}");
        let mut no_command = Fake::at(Place::Stepd);
        no_command.command.clear();
        assert!(init(&mut no_command, &asking(), &settings(), None).is_err());
    }

    #[test]
    fn plugstack_arguments() {
        assert_eq!(
            Settings::parse([
                "launcher=/a",
                "state=/b/",
                "kernel-mount=/c",
                "batch=inside"
            ]),
            Ok(Settings {
                launcher: "/a".into(),
                state: "/b".into(),
                kernel_mount: Some("/c".into()),
                batch_inside: true
            })
        );
        for wrong in ["launcher=a", "state=/", "lancher=/a", "batch=maybe", "x"] {
            assert!(Settings::parse([wrong]).is_err(), "{wrong}");
        }
    }
}
