-- job_submit.lua for slurmctld (JobSubmitPlugins=lua, beside slurm.conf): what a launcher without privileges cannot do.
--
-- On the partition `haven` every job's script must be one that `carrack` made, unchanged in the lines that decide, and
-- steps that do not begin with the launcher are refused. Slurm runs this as its own user, where nobody can get around it.
-- It reads text, so it is a fence for the honest and a log for the rest; what a job can do on a node is decided there by
-- the prolog, the node's firewall and file permissions.

local guarded = { haven = true }

local function refuse(reason)
    slurm.log_user("carrack: %s", reason)
    return slurm.ERROR
end

-- The launcher lines of a script: each `srun` must start the launcher, and nothing may name another profile.
local function check_script(script)
    if not script:find("made by carrack ", 1, true) then
        return "jobs of this partition are made by `carrack submit`"
    end
    for line in script:gmatch("[^\n]+") do
        local step = line:match("^step%s+(.*)")
        if step and not step:find("carrack%s+exec") and not step:find("carrack%s+run") then
            return "a step outside of a container is not allowed here: " .. line
        end
        if line:find("CARRACK_PROFILE", 1, true) or line:find("--profile[ =]") and not line:find("carrack record", 1, true) then
            return "the profile of this partition cannot be changed"
        end
    end
    return nil
end

-- Several partitions may be named at once, and none means the default one.
local function is_guarded(partitions, part_list)
    if partitions == nil or partitions == "" then
        for name, partition in pairs(part_list or {}) do
            if partition.flag_default == 1 and guarded[name] then
                return true
            end
        end
        return false
    end
    for name in partitions:gmatch("[^,%s]+") do
        if guarded[name] then
            return true
        end
    end
    return false
end

function slurm_job_submit(job_desc, part_list, submit_uid)
    if not is_guarded(job_desc.partition, part_list) then
        return slurm.SUCCESS
    end
    if job_desc.script == nil or job_desc.script == "" then
        return refuse("salloc and srun are not allowed on this partition; use `carrack submit`")
    end
    local reason = check_script(job_desc.script)
    if reason ~= nil then
        return refuse(reason)
    end
    return slurm.SUCCESS
end

function slurm_job_modify(job_desc, job_rec, part_list, modify_uid)
    -- A job cannot be moved into the partition past the check.
    if job_desc.partition ~= nil and is_guarded(job_desc.partition, part_list) and modify_uid ~= 0 then
        return refuse("jobs are not moved into this partition")
    end
    return slurm.SUCCESS
end

return slurm.SUCCESS
