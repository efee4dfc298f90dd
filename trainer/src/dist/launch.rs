//! Which of a job's processes this one is, by what its launcher says: torchrun, OpenMPI's `mpirun`, SLURM's `srun`.

use crate::error::{Error, Result};

/// The port that ranks meet at where nothing else is said, as PyTorch's.
const DEFAULT_PORT: u16 = 29500;

/// This process among those of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// Its number, from 0.
    pub rank: usize,
    /// Processes of the job.
    pub world: usize,
    /// Its number among those of its machine: that of its GPU.
    pub local_rank: usize,
    /// What started it.
    pub launcher: Launcher,
    /// Where rank 0 listens; none where MPI is to tell.
    pub master: Option<(String, u16)>,
}

/// What starts the processes of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Launcher {
    /// Nothing: there is one process.
    Single,
    /// PyTorch's `torchrun --no-python`, or anything that sets its variables.
    Torchrun,
    /// OpenMPI's `mpirun`.
    OpenMpi,
    /// SLURM's `srun`.
    Slurm,
}

impl Default for Launch {
    fn default() -> Self {
        Launch {
            rank: 0,
            world: 1,
            local_rank: 0,
            launcher: Launcher::Single,
            master: None,
        }
    }
}

/// The variables of each launcher: rank, world size, rank on its machine. A batch script of SLURM has its job's variables too, but only
/// `srun` sets those of a step.
const VARIABLES: [(Launcher, [&str; 3]); 3] = [
    (Launcher::Torchrun, ["RANK", "WORLD_SIZE", "LOCAL_RANK"]),
    (
        Launcher::OpenMpi,
        [
            "OMPI_COMM_WORLD_RANK",
            "OMPI_COMM_WORLD_SIZE",
            "OMPI_COMM_WORLD_LOCAL_RANK",
        ],
    ),
    (
        Launcher::Slurm,
        ["SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"],
    ),
];

impl Launch {
    /// As the environment says; alone, if no launcher has set its variables.
    ///
    /// # Errors
    /// [`Error::Config`] naming a variable that is no number, or a rank that cannot be.
    pub fn from_env() -> Result<Self> {
        Self::from_variables(|name| std::env::var(name).ok())
    }

    fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let found = VARIABLES
            .iter()
            .find(|(_, [rank, world, _])| variable(rank).is_some() && variable(world).is_some());
        let Some((launcher, [rank, world, local])) = found else {
            return Ok(Self::default());
        };
        let number = |name: &str| -> Result<Option<usize>> {
            let Some(text) = variable(name) else {
                return Ok(None);
            };
            let parsed = text.trim().parse();
            parsed.map(Some).map_err(|_| {
                Error::Config(format!("{name}={text}, set by the launcher, is no number"))
            })
        };
        let (name, rank, world) = (
            rank,
            number(rank)?.unwrap_or_default(),
            number(world)?.unwrap_or_default(),
        );
        if rank >= world {
            return Err(Error::Config(format!(
                "{name}={rank}, set by the launcher, is not below the number of processes, {world}"
            )));
        }
        if world == 1 {
            return Ok(Self::default());
        }
        Ok(Launch {
            rank,
            world,
            local_rank: number(local)?.unwrap_or(rank),
            launcher: *launcher,
            master: master(*launcher, &variable)?,
        })
    }

    /// Whether this process writes what there is one of: the log, checkpoints, results.
    pub fn is_first(&self) -> bool {
        self.rank == 0
    }
}

/// Where rank 0 listens: `MAE_MASTER_PORT` and `MASTER_ADDR` if set, and what the launcher tells otherwise.
fn master(
    launcher: Launcher,
    variable: &impl Fn(&str) -> Option<String>,
) -> Result<Option<(String, u16)>> {
    let port = |name: &str| -> Result<Option<u16>> {
        let Some(text) = variable(name) else {
            return Ok(None);
        };
        let parsed = text.trim().parse();
        parsed
            .map(Some)
            .map_err(|_| Error::Config(format!("{name}={text} is no port (0..65535)")))
    };
    let address = variable("MASTER_ADDR").or_else(|| match launcher {
        Launcher::Slurm => variable("SLURM_STEP_NODELIST").map(|nodes| first_node(&nodes)),
        _ => None,
    });
    let Some(address) = address else {
        return match launcher {
            Launcher::OpenMpi => Ok(None),
            _ => Err(Error::Config(
                "the launcher did not say where the processes meet: set MASTER_ADDR to the address of the machine of rank 0".into(),
            )),
        };
    };
    // torchrun's own agent listens at MASTER_PORT.
    let agent = variable("TORCHELASTIC_USE_AGENT_STORE").is_some_and(|value| value == "True");
    let port = match (port("MAE_MASTER_PORT")?, port("MASTER_PORT")?) {
        (Some(port), _) => port,
        (None, Some(port)) if agent => port.checked_add(1).unwrap_or(DEFAULT_PORT),
        (None, Some(port)) => port,
        (None, None) => DEFAULT_PORT,
    };
    Ok(Some((address, port)))
}

/// The first of SLURM's nodes: `gpu[03-06,9],login1` begins with `gpu03`.
fn first_node(nodes: &str) -> String {
    let Some((prefix, rest)) = nodes.split_once('[') else {
        return nodes.split(',').next().unwrap_or_default().to_owned();
    };
    if let Some((first, _)) = prefix.split_once(',') {
        return first.to_owned();
    }
    let number = rest.split([',', '-', ']']).next().unwrap_or_default();
    let suffix = rest.split_once(']').map_or("", |(_, after)| after);
    let suffix = suffix.split(',').next().unwrap_or_default();
    format!("{prefix}{number}{suffix}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launch(variables: &[(&str, &str)]) -> Result<Launch> {
        Launch::from_variables(|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn each_launcher_is_understood() {
        let torchrun = [
            ("RANK", "5"),
            ("WORLD_SIZE", "8"),
            ("LOCAL_RANK", "1"),
            ("MASTER_ADDR", "node7"),
            ("MASTER_PORT", "1234"),
        ];
        let expected = Launch {
            rank: 5,
            world: 8,
            local_rank: 1,
            launcher: Launcher::Torchrun,
            master: Some(("node7".into(), 1234)),
        };
        assert_eq!(launch(&torchrun).unwrap(), expected);
        let mpi = launch(&[
            ("OMPI_COMM_WORLD_RANK", "2"),
            ("OMPI_COMM_WORLD_SIZE", "3"),
            ("OMPI_COMM_WORLD_LOCAL_RANK", "0"),
        ]);
        let mpi = mpi.unwrap();
        assert_eq!((mpi.rank, mpi.world, mpi.local_rank), (2, 3, 0));
        assert_eq!((mpi.launcher, mpi.master), (Launcher::OpenMpi, None));
        let srun = launch(&[
            ("SLURM_PROCID", "3"),
            ("SLURM_STEP_NUM_TASKS", "4"),
            ("SLURM_LOCALID", "1"),
            ("SLURM_STEP_NODELIST", "gpu[03-04]"),
        ]);
        let srun = srun.unwrap();
        assert_eq!((srun.rank, srun.world, srun.local_rank), (3, 4, 1));
        assert_eq!(srun.master, Some(("gpu03".into(), DEFAULT_PORT)));
    }

    #[test]
    fn alone_without_a_launcher_or_in_a_batch_script() {
        assert_eq!(launch(&[]).unwrap(), Launch::default());
        // What sbatch sets for its script, which is no step.
        let script = [("SLURM_PROCID", "0"), ("SLURM_NTASKS", "8")];
        assert_eq!(launch(&script).unwrap(), Launch::default());
        let one = [("RANK", "0"), ("WORLD_SIZE", "1")];
        assert_eq!(launch(&one).unwrap(), Launch::default());
    }

    #[test]
    fn torchruns_agent_keeps_its_port() {
        let agent = [
            ("RANK", "0"),
            ("WORLD_SIZE", "2"),
            ("MASTER_ADDR", "a"),
            ("MASTER_PORT", "29500"),
            ("TORCHELASTIC_USE_AGENT_STORE", "True"),
        ];
        let master = |more: &[(&str, &str)]| launch(&[&agent, more].concat()).unwrap().master;
        assert_eq!(master(&[]), Some(("a".into(), 29501)));
        assert_eq!(master(&[("MAE_MASTER_PORT", "7")]), Some(("a".into(), 7)));
    }

    #[test]
    fn what_cannot_be_is_named() {
        let error = launch(&[("RANK", "x"), ("WORLD_SIZE", "2")]).unwrap_err();
        assert!(error.to_string().contains("RANK=x"), "{error}");
        let error = launch(&[("RANK", "2"), ("WORLD_SIZE", "2")]).unwrap_err();
        assert!(error.to_string().contains("RANK=2"), "{error}");
        let error = launch(&[("RANK", "1"), ("WORLD_SIZE", "2")]).unwrap_err();
        assert!(error.to_string().contains("MASTER_ADDR"), "{error}");
    }

    #[test]
    fn the_first_node_of_a_list() {
        for (list, first) in [
            ("a", "a"),
            ("a,b", "a"),
            ("gpu[03-06,9],login1", "gpu03"),
            ("gpu[7]", "gpu7"),
            ("a,gpu[1-2]", "a"),
            ("n[1-2]-ib", "n1-ib"),
        ] {
            assert_eq!(first_node(list), first);
        }
    }
}
