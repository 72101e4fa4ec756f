-- SHA-256 (FIPS 180-4) of a string, in lower-case hexadecimal. LuaJIT's `bit` has 32-bit integers.
local band, bnot, bxor, ror = bit.band, bit.bnot, bit.bxor, bit.ror
local rshift, tobit, tohex = bit.rshift, bit.tobit, bit.tohex

local CONSTANTS, INITIAL = {}, {}
do
  -- The first 32 bits of the fractional parts of roots of the first 64 primes. A double holds them.
  local function fraction(root) return tobit(math.floor((root % 1) * 4294967296)) end
  local candidate = 2
  while #CONSTANTS < 64 do
    local prime = true
    for divisor = 2, candidate - 1 do
      if candidate % divisor == 0 then prime = false break end
    end
    if prime then
      CONSTANTS[#CONSTANTS + 1] = fraction(candidate ^ (1 / 3))
      if #INITIAL < 8 then INITIAL[#INITIAL + 1] = fraction(candidate ^ 0.5) end
    end
    candidate = candidate + 1
  end
end

local function sha256(message)
  local length = #message
  local padding = string.rep("\0", (55 - length) % 64)
  message = message .. "\128" .. padding .. "\0\0\0" .. string.char(
    math.floor(length / 536870912) % 256, band(rshift(length, 21), 255),
    band(rshift(length, 13), 255), band(rshift(length, 5), 255), band(length * 8, 255))
  local state, words = {unpack(INITIAL)}, {}
  for block = 1, #message, 64 do
    for index = 1, 16 do
      local one, two, three, four = message:byte(block + 4 * index - 4, block + 4 * index - 1)
      words[index] = tobit(one * 16777216 + two * 65536 + three * 256 + four)
    end
    for index = 17, 64 do
      local early, late = words[index - 15], words[index - 2]
      words[index] = tobit(
        words[index - 16] + bxor(ror(early, 7), ror(early, 18), rshift(early, 3))
        + words[index - 7] + bxor(ror(late, 17), ror(late, 19), rshift(late, 10)))
    end
    local a, b, c, d, e, f, g, h = unpack(state)
    for index = 1, 64 do
      local first = tobit(
        h + bxor(ror(e, 6), ror(e, 11), ror(e, 25)) + bxor(band(e, f), band(bnot(e), g))
        + CONSTANTS[index] + words[index])
      local second = bxor(ror(a, 2), ror(a, 13), ror(a, 22))
        + bxor(band(a, b), band(a, c), band(b, c))
      h, g, f, e, d, c, b, a = g, f, e, tobit(d + first), c, b, a, tobit(first + second)
    end
    for index, value in ipairs({a, b, c, d, e, f, g, h}) do
      state[index] = tobit(state[index] + value)
    end
  end
  for index = 1, 8 do state[index] = tohex(state[index]) end
  return table.concat(state)
end
