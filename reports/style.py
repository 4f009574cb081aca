"""The page's style sheet: dark text on white, readable on a phone and on paper."""

CSS = """
:root { color-scheme: light; --ink: #1a1d21; --soft: #555d66; --line: #d9dde2; --tint: #f4f6f8; --link: #0b57a4; }
* { box-sizing: border-box; }
html { scroll-padding-top: 3.2rem; }
body { margin: 0; background: #fff; color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto,
  "Helvetica Neue", "Noto Sans", "DejaVu Sans", sans-serif; }
nav { position: sticky; top: 0; z-index: 1; display: flex; gap: .35rem 1.4rem; overflow-x: auto; padding: .6rem 1.2rem;
  background: #fff; border-bottom: 1px solid var(--line); font-size: .92rem; white-space: nowrap;
  justify-content: safe center; }
nav a { color: var(--soft); text-decoration: none; }
nav a:hover, nav a:focus { color: var(--link); text-decoration: underline; }
main { max-width: 1080px; margin: 0 auto; padding: 1.2rem 1.2rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 1rem 0 0; }
h2 { font-size: 1.35rem; margin: 2.6rem 0 .8rem; padding-bottom: .3rem; border-bottom: 2px solid var(--ink); }
h3 { font-size: 1.05rem; margin: 0 0 .5rem; }
a { color: var(--link); }
.lead { font-size: 1.2rem; line-height: 1.45; margin: 0 0 1.1rem; }
ul { margin: 1.1rem 0 0; padding-left: 1.2rem; }
li { margin: .35rem 0; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .7rem; }
.tiles div { padding: .7rem .9rem; background: var(--tint); border-radius: 6px; }
.tiles b { display: block; font-size: 1.45rem; line-height: 1.25; font-variant-numeric: tabular-nums; }
.tiles span { color: var(--soft); font-size: .9rem; }
article, figure { margin: 0 0 2.4rem; }
.wide { overflow-x: auto; }
article p { margin: 0 0 .7rem; max-width: 62rem; }
table { border-collapse: collapse; min-width: min(100%, 36rem); font-size: .93rem; font-variant-numeric: tabular-nums;
  border-top: 2px solid var(--ink); border-bottom: 2px solid var(--ink); }
th, td { padding: .34rem .6rem; vertical-align: top; text-align: left; }
th.r, td.r { text-align: right; white-space: nowrap; }
td.wrap { min-width: 16rem; overflow-wrap: anywhere; }
thead th { border-bottom: 1px solid var(--ink); vertical-align: bottom; font-weight: 600; }
thead th.r { white-space: normal; }
tbody tr + tr td { border-top: 1px solid var(--line); }
tbody tr:hover td { background: var(--tint); }
tr.block th { padding-top: .9rem; font-style: italic; border-bottom: 1px solid var(--line); }
u { text-underline-offset: .18em; }
article .notes, figcaption { color: var(--soft); font-size: .88rem; line-height: 1.5; margin: .6rem 0 0;
  max-width: 62rem; }
figure img { display: block; width: 100%; min-width: 640px; height: auto; }
dl { display: grid; grid-template-columns: minmax(8rem, max-content) 1fr; gap: .5rem 1.4rem; margin: 0; }
dt { font-weight: 600; }
dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 640px) {
  main { padding: .6rem .9rem 3rem; }
  nav { justify-content: flex-start; }
  h1 { font-size: 1.5rem; }
  .lead { font-size: 1.08rem; }
  .tiles { grid-template-columns: 1fr 1fr; }
  dl { grid-template-columns: 1fr; gap: .1rem; }
  dd { margin-bottom: .7rem; }
}
@media print { nav { display: none; } article, figure { break-inside: avoid; } }
"""
