#!/usr/bin/env bash
# A Slurm of one node with two made-up GPUs, below the folder that is named: cluster.sh start|stop FOLDER
# It needs root, and Debian's slurmctld, slurmd, slurm-client and munge; nothing outside the folder is written.
set -euo pipefail
command=$1 folder=$2
export SLURM_CONF=$folder/slurm.conf

start() {
    trap stop EXIT  # what was started before the rest failed
    mkdir -p "$folder"/{state,spool,run}
    chmod 755 "$folder"
    dd if=/dev/urandom of="$folder/munge.key" bs=1024 count=1 status=none
    chmod 400 "$folder/munge.key"
    munged --force --key-file="$folder/munge.key" --socket="$folder/run/munge.socket" \
        --pid-file="$folder/run/munged.pid" --log-file="$folder/munged.log" --seed-file="$folder/run/munge.seed"
    cat > "$SLURM_CONF" <<CONF
ClusterName=made-up
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmctldPort=$((20000 + $$ % 10000))
SlurmdPort=$((30000 + $$ % 10000))
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/run/munge.socket
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/run/slurmctld.pid
SlurmdPidFile=$folder/run/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/linuxproc
MpiDefault=none
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=2
ReturnToService=2
KillWait=20
MinJobAge=300
SlurmdTimeout=30
GresTypes=gpu
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
NodeName=$(hostname -s) NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=2000 Gres=gpu:made:2 State=UNKNOWN
PartitionName=gpu Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=20
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10
CONF
    touch "$folder/gpu0" "$folder/gpu1"
    echo "Name=gpu Type=made File=$folder/gpu[0-1]" > "$folder/gres.conf"
    echo "CgroupPlugin=cgroup/v1" > "$folder/cgroup.conf"
    slurmctld -c
    slurmd -c
    for _ in $(seq 60); do
        sinfo -h -o %T 2>/dev/null | grep -q idle && { trap - EXIT; return; }
        sleep 0.5
    done
    cat "$folder"/slurm*.log >&2
    exit 1
}

stop() {
    for name in slurmd slurmctld munged; do
        pid=$(cat "$folder/run/$name.pid" 2>/dev/null || true)
        [ -n "$pid" ] && kill "$pid" 2>/dev/null || true
    done
}

"$command"
