"""Names of files and directories that a path option must take as they are."""

HOSTILE_NAMES = (
  'runs[lr=0.1]',
  'a*b',
  'what?',
  'with space',
  'ünï-écrit-画像',
  '{a,b}',
  '-dash',
  '100%',
  "it's",
  'back\\slash',
  '[!x]',
  '#1$HOME',
)
