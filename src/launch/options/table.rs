//! The rows of the option table.

use super::{OptionSpec, Shape, Split, Value, choice, device, env_rule, id_choice, os, path, text};
use crate::error::{Error, Result};
use crate::launch::contract::is_plain;
use crate::launch::inside::InsidePath;
use crate::launch::mounts::{MountSpec, parse_size};
use crate::launch::ports;
use crate::launch::request::{
    Dev, Entrypoint, EnvRule, Gpu, Home, IdChoice, Inherit, NetworkChoice, RootAccess, Tmp,
};
use std::os::unix::ffi::OsStrExt;

/// The order is that of the help text.
pub static OPTIONS: &[OptionSpec] = &[
    OptionSpec {
        name: "image",
        variable: "CARRACK_IMAGE",
        key: "image",
        slurm: &["container-image"],
        shape: Shape::Value("IMAGE"),
        help: "Use this image; then every word is the command",
        set: |request, value| {
            request.image = Some(text(value)?.to_string());
            Ok(())
        },
        ..PLAIN
    },
    OptionSpec {
        name: "bind",
        short: Some('v'),
        variable: "CARRACK_BIND",
        key: "mounts",
        slurm: &["container-mounts"],
        shape: Shape::Value("SRC[:DST[:FLAGS]]"),
        split: Split::Commas,
        help: "Show a host directory or file inside; FLAGS: ro, rw, x-create=dir",
        set: |request, value| {
            let word = os(value)?;
            let keyed = word.as_bytes().starts_with(b"type=");
            request.mounts.push(if keyed {
                MountSpec::parse_keyed(word)?
            } else {
                MountSpec::parse(word)?
            });
            Ok(())
        },
        ..PLAIN
    },
    OptionSpec {
        name: "mount",
        variable: "CARRACK_MOUNT",
        shape: Shape::Value("type=bind|tmpfs,…"),
        split: Split::Lines,
        help: "Mount in docker's long form: type=bind,src=…,dst=…[,ro] or type=tmpfs,dst=…[,size=…]",
        set: |request, value| {
            request.mounts.push(MountSpec::parse_keyed(os(value)?)?);
            Ok(())
        },
        ..PLAIN
    },
    OptionSpec {
        name: "workdir",
        short: Some('w'),
        variable: "CARRACK_WORKDIR",
        key: "workdir",
        slurm: &["container-workdir"],
        shape: Shape::Value("DIR"),
        help: "Start in this directory of the image [default: the current one if it exists inside]",
        set: |request, value| {
            request.workdir = Some(InsidePath::new(os(value)?)?);
            Ok(())
        },
        ..PLAIN
    },
    OptionSpec {
        name: "env",
        short: Some('e'),
        variable: "CARRACK_ENV",
        key: "env",
        slurm: &["container-env"],
        shape: Shape::Value("NAME[=VALUE]"),
        split: Split::Lines,
        help: "Set a variable, or pass the caller's value even over the image's",
        set: |request, value| {
            request.environment.push(env_rule(os(value)?)?);
            Ok(())
        },
        ..PLAIN
    },
    OptionSpec {
        name: "env-file",
        variable: "CARRACK_ENV_FILE",
        key: "env_file",
        shape: Shape::Value("FILE"),
        help: "Set the variables of a file with NAME=VALUE lines, as docker reads them",
        set: |request, value| {
            let rule = EnvRule::File(path(value)?);
            request.environment.push(rule);
            Ok(())
        },
        ..PLAIN
    },
    OptionSpec {
        name: "env0-file",
        variable: "CARRACK_ENV0_FILE",
        key: "env0_file",
        shape: Shape::Value("FILE"),
        help: "The same with NUL after each NAME=VALUE, so that values may hold newlines",
        set: |request, value| {
            let rule = EnvRule::File0(path(value)?);
            request.environment.push(rule);
            Ok(())
        },
        ..PLAIN
    },
    OptionSpec {
        name: "unset-env",
        variable: "CARRACK_UNSET_ENV",
        key: "unset_env",
        shape: Shape::Value("GLOB"),
        split: Split::Commas,
        help: "Remove the variables whose names match, in order with the options that set them",
        set: |request, value| {
            let rule = EnvRule::Unset(text(value)?.to_string());
            request.environment.push(rule);
            Ok(())
        },
        ..PLAIN
    },
    OptionSpec {
        name: "clean-env",
        off: Some("no-clean-env"),
        variable: "CARRACK_CLEAN_ENV",
        key: "clean_env",
        help: "Do not pass the caller's environment; Slurm's and the process manager's variables stay",
        set: |request, value| {
            request.inherit = Some(match value {
                Value::Off => Inherit::Pass,
                _ => Inherit::Clean,
            });
            Ok(())
        },
        ..PLAIN
    },
    OptionSpec {
        name: "home",
        off: Some("no-home"),
        variable: "CARRACK_HOME",
        key: "home",
        slurm: &["container-mount-home"],
        slurm_off: &["no-container-mount-home"],
        shape: Shape::Optional("DIR"),
        help: "Show the home directory, or DIR in its place [default: shown]",
        set: |request, value| {
            request.home = Some(match value {
                Value::On => Home::Mount,
                Value::Off => Home::Hide,
                Value::Text(_) => Home::MountFrom(path(value)?),
            });
            Ok(())
        },
        ..PLAIN
    },
    OptionSpec {
        name: "tmp",
        variable: "CARRACK_TMP",
        key: "tmp",
        shape: Shape::Value("host|private"),
        help: "Show the host's /tmp or an empty one of this capsule [default: host]",
        set: |request, value| {
            request.tmp = Some(choice(
                "tmp",
                value,
                &[("host", Tmp::Host), ("private", Tmp::Private)],
            )?);
            Ok(())
        },
        ..PLAIN
    },
    OptionSpec {
        name: "entrypoint",
        off: Some("no-entrypoint"),
        variable: "CARRACK_ENTRYPOINT",
        key: "entrypoint",
        slurm: &["container-entrypoint"],
        slurm_off: &["no-container-entrypoint"],
        shape: Shape::Optional("COMMAND"),
        help: "Start the image's entrypoint, or COMMAND in its place [default: `run` yes, others no]",
        set: |request, value| {
            request.entrypoint = Some(match value {
                Value::On => Entrypoint::Image,
                Value::Off => Entrypoint::None,
                // docker's way to say none
                Value::Text(word) if word.is_empty() => Entrypoint::None,
                Value::Text(word) => Entrypoint::Replace(word.to_owned()),
            });
            Ok(())
        },
        ..PLAIN
    },
    OptionSpec {
        name: "entrypoint-log",
        variable: "CARRACK_ENTRYPOINT_LOG",
        key: "entrypoint_log",
        slurm: &["container-entrypoint-log"],
        help: "Let the entrypoint's output be seen, as it always is (pyxis's word)",
        ..PLAIN
    },
    OptionSpec {
        name: "writable",
        off: Some("read-only"),
        variable: "CARRACK_WRITABLE",
        key: "writable",
        slurm: &["container-writable"],
        slurm_off: &["container-readonly"],
        shape: Shape::Optional("SIZE"),
        help: "Let the process write anywhere; kept in memory, at most SIZE, and discarded [default: read-only]",
        set: |request, value| {
            request.root = Some(match value {
                Value::On => RootAccess::Writable { size: None },
                Value::Off => RootAccess::ReadOnly,
                Value::Text(_) => RootAccess::Writable {
                    size: Some(parse_size(text(value)?).map_err(Error::usage)?),
                },
            });
            Ok(())
        },
        ..PLAIN
    },
    OptionSpec {
        name: "id",
        variable: "CARRACK_ID",
        key: "id",
        slurm: &[],
        shape: Shape::Value("keep|root|image|UID[:GID]"),
        help: "Appear inside as yourself, root, the image's user or a number; files stay yours [default: keep]",
        set: |request, value| {
            request.id = Some(id_choice(text(value)?)?);
            Ok(())
        },
        ..PLAIN
    },
    OptionSpec {
        name: "remap-root",
        off: Some("no-remap-root"),
        variable: "CARRACK_REMAP_ROOT",
        key: "remap_root",
        slurm: &["container-remap-root"],
        slurm_off: &["no-container-remap-root"],
        help: "The same as --id root (pyxis's word)",
        set: |request, value| {
            request.id = Some(match value {
                Value::Off => IdChoice::Keep,
                _ => IdChoice::Root,
            });
            Ok(())
        },
        ..PLAIN
    },
    OptionSpec {
        name: "gpu",
        variable: "CARRACK_GPU",
        key: "gpu",
        shape: Shape::Value("auto|none|all"),
        help: "Show the GPUs of the allocation, none, or all that the node lets you open [default: auto]",
        set: |request, value| {
            request.gpu = Some(choice(
                "gpu",
                value,
                &[("auto", Gpu::Auto), ("none", Gpu::None), ("all", Gpu::All)],
            )?);
            Ok(())
        },
        ..PLAIN
    },
    OptionSpec {
        name: "device",
        variable: "CARRACK_DEVICE",
        key: "devices",
        shape: Shape::Value("PATH|CDI-NAME"),
        split: Split::Commas,
        help: "Show one more device where /dev is minimal, or apply a CDI device such as nvidia.com/gpu=0",
        set: |request, value| {
            let device = device(text(value)?)?;
            request.devices.push(device);
            Ok(())
        },
        ..PLAIN
    },
    OptionSpec {
        name: "mpi-inject",
        variable: "CARRACK_MPI_INJECT",
        key: "mpi_inject",
        shape: Shape::Value("host|none"),
        help: "Put the host's MPI and fabric in the place of the image's where both have the same interface [default: none]",
        set: |request, value| {
            request.mpi_inject = Some(choice(
                "mpi-inject",
                value,
                &[("host", true), ("none", false)],
            )?);
            Ok(())
        },
        ..PLAIN
    },
    OptionSpec {
        name: "bundle",
        variable: "CARRACK_BUNDLE",
        key: "bundles",
        shape: Shape::Value("NAME"),
        split: Split::Commas,
        help: "Take a bundle of mounts and variables that the site describes, e.g. for its fabric",
        set: |request, value| {
            request.bundles.push(text(value)?.to_string());
            Ok(())
        },
        ..PLAIN
    },
    OptionSpec {
        name: "network",
        variable: "CARRACK_NETWORK",
        key: "network",
        shape: Shape::Value("host|none"),
        help: "Use the host's network, or none but loopback [default: host]",
        set: |request, value| {
            request.network = Some(match text(value)? {
                "host" => NetworkChoice::Host,
                "none" => NetworkChoice::None,
                other => {
                    return Err(Error::usage(format!("cannot give the network `{other}`"))
                        .cause("a capsule has the host's network or none")
                        .hint("use `--network host` or `--network none`"));
                }
            });
            Ok(())
        },
        ..PLAIN
    },
    OptionSpec {
        name: "unshare",
        variable: "CARRACK_UNSHARE",
        key: "unshare",
        slurm: &["container-unshare"],
        shape: Shape::Value("net"),
        split: Split::Commas,
        help: "The same as --network none (pyxis's word)",
        set: |request, value| {
            match text(value)? {
            "net" => {
                request.network = Some(NetworkChoice::None);
                Ok(())
            }
            other => Err(Error::usage(format!("cannot unshare `{other}`")).cause(
                "only `net` can be separate: MPI ranks of one node need the other namespaces in common",
            )),
        }
        },
        ..PLAIN
    },
    OptionSpec {
        name: "name",
        variable: "CARRACK_NAME",
        key: "name",
        slurm: &["container-name"],
        shape: Shape::Value("NAME"),
        help: "Share the capsule with other steps of this job under this name; srun keeps its root, writable, until the job ends",
        set: |request, value| {
            let name = text(value)?;
            // pyxis appends what to do with an existing one; ours is always joined or made.
            let name = name.split_once(':').map_or(name, |(name, _)| name);
            let plain = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
            if name.is_empty() || name.len() > 64 || !name.chars().all(plain) {
                return Err(
                    Error::usage(format!("cannot use the capsule name `{name}`"))
                        .cause("a name has 1 to 64 letters, digits, `_`, `.` or `-`"),
                );
            }
            request.name = Some(name.to_string());
            Ok(())
        },
        ..PLAIN
    },
    OptionSpec {
        name: "save",
        variable: "CARRACK_SAVE",
        slurm: &["container-save"],
        shape: Shape::Value("FILE"),
        help: "Write the root as a squashfs file with its record when the step ends (srun only)",
        set: |request, value| {
            request.save = Some(path(value)?);
            Ok(())
        },
        ..PLAIN
    },
    OptionSpec {
        name: "dev",
        variable: "CARRACK_DEV",
        key: "dev",
        shape: Shape::Value("full|minimal"),
        help: "Show the host's /dev, where Slurm decides what opens, or a few nodes [default: full]",
        set: |request, value| {
            request.dev = Some(choice(
                "dev",
                value,
                &[("full", Dev::Full), ("minimal", Dev::Minimal)],
            )?);
            Ok(())
        },
        ..PLAIN
    },
    OptionSpec {
        name: "interactive",
        short: Some('i'),
        variable: "CARRACK_INTERACTIVE",
        key: "interactive",
        help: "Expect a person at a terminal (docker's -it); a site may refuse that",
        set: |request, value| {
            request.interactive = !matches!(value, Value::Off);
            Ok(())
        },
        ..PLAIN
    },
    OptionSpec {
        name: "profile",
        variable: "CARRACK_PROFILE",
        key: "profile",
        shape: Shape::Value("NAME"),
        help: "Use a named set of rules: hpc, ces, eucaim, gef or one of the site's [default: hpc]",
        set: |request, value| {
            request.profile = Some(text(value)?.to_string());
            Ok(())
        },
        ..PLAIN
    },
    OptionSpec {
        name: "project",
        variable: "CARRACK_PROJECT",
        key: "project",
        shape: Shape::Value("NAME"),
        help: "Work for this project of yours [default: the first one whose data is there]",
        set: |request, value| {
            request.project = Some(plain(value)?);
            Ok(())
        },
        ..PLAIN
    },
    OptionSpec {
        name: "dataset",
        variable: "CARRACK_DATASET",
        key: "datasets",
        shape: Shape::Value("ID[,ID]"),
        split: Split::Commas,
        help: "Show these datasets where the profile says, read-only unless it says otherwise",
        set: |request, value| {
            for id in text(value)?.split(',').filter(|id| !id.is_empty()) {
                let id = plain(Value::Text(id.as_ref()))?;
                if !request.datasets.contains(&id) {
                    request.datasets.push(id);
                }
            }
            Ok(())
        },
        ..PLAIN
    },
    OptionSpec {
        name: "input",
        variable: "CARRACK_INPUT",
        key: "inputs",
        shape: Shape::Value("PORT=VALUE"),
        split: Split::Lines,
        help: "Give an input port of a GEF image a path, an address, an identifier or a text",
        set: |request, value| {
            request.inputs.push(ports::parse(text(value)?)?);
            Ok(())
        },
        ..PLAIN
    },
    OptionSpec {
        name: "output",
        variable: "CARRACK_OUTPUT",
        key: "outputs",
        shape: Shape::Value("PORT=DIR"),
        split: Split::Lines,
        help: "Give an output port of a GEF image a directory [default: outputs_JOB in the home]",
        set: |request, value| {
            request.outputs.push(ports::parse(text(value)?)?);
            Ok(())
        },
        ..PLAIN
    },
    OptionSpec {
        name: "environment",
        variable: "CARRACK_ENVIRONMENT",
        key: "base_environment",
        slurm: &["environment"],
        shape: Shape::Value("FILE|NAME"),
        split: Split::Commas,
        help: "Take image, mounts and variables from an environment file (EDF)",
        set: |request, value| {
            request.environments.push(text(value)?.to_string());
            Ok(())
        },
        ..PLAIN
    },
];

fn plain(value: Value<'_>) -> Result<String> {
    let name = text(value)?;
    if is_plain(name) {
        return Ok(name.to_string());
    }
    Err(Error::usage(format!("`{name}` is no plain name")).cause(
        "a name in a path has letters, digits, `_`, `.`, `+`, `@` and `-`, and no dot in front",
    ))
}

const PLAIN: OptionSpec = OptionSpec {
    name: "",
    short: None,
    off: None,
    variable: "",
    key: "",
    slurm: &[],
    slurm_off: &[],
    shape: Shape::Switch,
    split: Split::Never,
    help: "",
    set: |_, _| Ok(()),
};
