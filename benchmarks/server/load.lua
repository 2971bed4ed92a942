-- Copyright: (c) 2026, AI-102 inference maintainers
-- GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
-- SPDX-License-Identifier: GPL-3.0-or-later
--
-- For wrk: sends the requests that stand, complete with their headers, in the files of a directory, one after the other.
--   wrk ... -s load.lua URL -- DIRECTORY COUNT [RATE]
-- With RATE (requests/s) requests leave at that pace whether answers have come or not, as long as a connection is free:
-- an open loop. Prints what happened as one line of JSON.

local ffi = require("ffi")
ffi.cdef[[
typedef struct { long seconds; long nanoseconds; } bench_timespec;
int clock_gettime(int clock, bench_timespec *time);
]]
local time = ffi.new("bench_timespec")

local function milliseconds()
  ffi.C.clock_gettime(1, time)
  return tonumber(time.seconds) * 1e3 + tonumber(time.nanoseconds) / 1e6
end

local threads = {}

function setup(thread)
  thread:set("number", #threads)
  table.insert(threads, thread)
end

function init(args)
  requests = {}
  for index = 0, tonumber(args[2]) - 1 do
    local file = assert(io.open(args[1] .. "/" .. index, "rb"))
    requests[#requests + 1] = file:read("*a")
    file:close()
  end
  turn = number
  statuses = {}
  step = args[3] and 1e3 / tonumber(args[3]) or nil
  due = nil
  if step then
    delay = function()
      local now = milliseconds()
      due = due and due + step or now
      -- What could not be sent in time, because no connection was free, is not made up for.
      if due < now - 1000 then due = now end
      return due > now and due - now or 0
    end
    response = function(status, headers, body)
      statuses[status] = (statuses[status] or 0) + 1
    end
    wrk.init = nil
  end
end

function request()
  turn = turn + 1
  return requests[turn % #requests + 1]
end

function done(summary, latency, _)
  local counted = {}
  for _, thread in ipairs(threads) do
    for status, count in pairs(thread:get("statuses") or {}) do
      counted[status] = (counted[status] or 0) + count
    end
  end
  local parts = {}
  for status, count in pairs(counted) do parts[#parts + 1] = string.format('"%d": %d', status, count) end
  local errors = summary.errors
  io.write(string.format(
    '\nRESULT {"requests": %d, "seconds": %.6f, "bytes": %d, "p50": %.1f, "p90": %.1f, "p99": %.1f, "max": %.1f, '
      .. '"errors": {"connect": %d, "read": %d, "write": %d, "status": %d, "timeout": %d}, "statuses": {%s}}\n',
    summary.requests, summary.duration / 1e6, summary.bytes, latency:percentile(50), latency:percentile(90),
    latency:percentile(99), latency.max, errors.connect, errors.read, errors.write, errors.status, errors.timeout,
    table.concat(parts, ", ")))
end
