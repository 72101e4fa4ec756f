local function is_grpc(headers)
  return (headers:get("content-type") or ""):sub(1, 16) == "application/grpc"
end

-- Answer a request with an error. Envoy words it as JSON where it is not gRPC: see replies.py.
local function refuse(handle, http_status, grpc_status, message, challenge)
  if is_grpc(handle:headers()) then
    handle:respond({
      [":status"] = "200",
      ["content-type"] = "application/grpc",
      ["grpc-status"] = tostring(grpc_status),
      ["grpc-message"] = message,
    }, "")
    return
  end
  local headers = {[":status"] = tostring(http_status)}
  if challenge then headers["www-authenticate"] = challenge end
  handle:respond(headers, message)
end

-- Call a function, and refuse the request if the function fails: Envoy itself would let it pass.
local function guarded(handle, check)
  local fine, problem = pcall(check, handle)
  if fine then return end
  handle:logErr(tostring(problem))
  refuse(handle, 500, 13, "The request cannot be checked.")
end
