"use strict";
const SECONDS = 1;
const cell = (row, ...content) => { const made = row.insertCell(); made.className = "text"; made.append(...content); return made; };
const link = (address, text) => { const made = document.createElement("a"); made.href = address; made.textContent = text; return made; };
const counted = (states) => Object.entries(states).map(([state, count]) => `${count} ${state}`).join(", ") || "no jobs yet";

const progressOf = (job) => {
  const at = job.progress || {};
  if (job.state !== "running") return job.cause || "";
  if ("block" in at) return `block ${at.block} of ${at.blocks}`;
  if (job.stage === "train" && "step" in at) return `step ${at.step} of ${at.steps}, ${Math.round(at.eta_s)} s left`;
  return job.stage || "starting";
};

// Ask for the token once, and keep it in this page only.
let token = null;
const change = async (job, action) => {
  token ??= prompt("Token of this server");
  if (!token) { token = null; return; }
  const answer = await fetch(`/api/jobs/${job}/${action}`, { method: "POST", headers: { Authorization: `Bearer ${token}` } });
  if (!answer.ok) { token = null; alert((await answer.json()).error); }
  refresh();
};

const showJobs = (found) => {
  document.getElementById("counts").textContent = counted(found.counts);
  const body = document.getElementById("jobs");
  body.replaceChildren();
  for (const job of found.jobs) {
    const row = body.insertRow();
    cell(row, link(`/api/jobs/${job.id}`, String(job.id)));
    cell(row, job.cancelling ? "cancelling" : job.state);
    cell(row, job.sweeps.join(", "));
    cell(row, job.kind === "profile" ? `profile of ${job.method}` : `${job.method} on ${job.task}, seed ${job.seed}`);
    cell(row, job.host ? `${job.slot} on ${job.host}` : "");
    cell(row, progressOf(job));
    const last = cell(row);
    const action = { queued: "cancel", running: "cancel", failed: "retry", cancelled: "retry" }[job.state];
    if (found.may_change && action) {
      const button = document.createElement("button");
      button.textContent = action;
      button.addEventListener("click", () => change(job.id, action));
      last.append(button);
    }
  }
};

const showSweeps = (found) => {
  const body = document.getElementById("sweeps");
  body.replaceChildren();
  for (const sweep of [...found].reverse()) {
    const row = body.insertRow();
    cell(row, link(`/report/${encodeURIComponent(sweep.name)}`, sweep.name));
    cell(row, counted(sweep.jobs));
    cell(row, sweep.last_submitted.replace("T", " ").slice(0, 16));
  }
};

const refresh = async () => {
  try {
    const [status, sweeps] = await Promise.all([fetch("/api/status"), fetch("/api/sweeps")]);
    if (!status.ok) throw new Error((await status.json()).error);
    showJobs(await status.json());
    showSweeps(await sweeps.json());
  } catch (error) {
    document.getElementById("counts").textContent = `not up to date: ${error.message}`;
  }
};
refresh();
setInterval(refresh, 1000 * SECONDS);
